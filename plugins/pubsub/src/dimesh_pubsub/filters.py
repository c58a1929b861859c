"""A subscription's filter in the language of Pub/Sub (https://cloud.google.com/pubsub/docs/subscription-message-filter).

The service sees only attributes, and a filter has at most 256 bytes. The filter is never narrower than what the subscription
wants: it passes messages of other programs, and messages whose attributes differ from their event (``UNUSUAL``); the stream
filters again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from dimesh.spi.bus import Filter

MAX_BYTES: Final = 256
COMPACT: Final = "dimesh"
UNUSUAL: Final = "dimeshany"
_OTHERS: Final = f"NOT attributes:{COMPACT} OR attributes:{UNUSUAL}"


def pushed(wanted: Filter) -> str:
    """Return the filter for the service; empty if its language cannot express one."""
    types = _either(f'attributes."ce-type" = "{name}"' for name in sorted(wanted.event_types))
    pillars = _either(
        f'hasPrefix(attributes."ce-source", "/dimesh/{quote(name, safe="")}/")'
        for name in sorted(wanted.pillars)
    )
    priorities = _either(f'attributes."ce-priority" = "{name}"' for name in sorted(wanted.priorities))
    for conditions in ((types, pillars, priorities), (types, pillars), (types,), (pillars,), (priorities,)):
        text = " AND ".join(c for c in conditions if c)
        if text:
            whole = f"{_OTHERS} OR ({text})"
            if len(whole.encode()) <= MAX_BYTES:
                return whole
    return ""


def _either(conditions: Iterable[str]) -> str:
    found = list(conditions)
    return f"({' OR '.join(found)})" if len(found) > 1 else "".join(found)
