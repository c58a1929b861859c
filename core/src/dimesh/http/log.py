"""The log of whatever clients can cause, which none of them can fill."""

from __future__ import annotations

import logging

from dimesh.logs.repeats import RepeatFilter

log = logging.getLogger("dimesh.http.server")
"""The log of whatever clients can cause."""
log.addFilter(RepeatFilter())
