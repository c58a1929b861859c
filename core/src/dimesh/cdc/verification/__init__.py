"""Verification: the feed audits itself. Rows are read at the source and compared with what was published.

A difference is a suspicion at first: a change may be on its way. It is an error only if the row and what was published of it are
both unchanged, and still differ in the same way, when the stream is past the first reading by the source's ordinary lag.
"""

from __future__ import annotations
