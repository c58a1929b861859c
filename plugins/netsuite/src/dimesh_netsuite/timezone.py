"""The clock and the time zone of the account, probed with a query: no setting is trusted.

Times are read in UTC. Where the column holds the account's time without an offset, the hour that the end of daylight-saving time
repeats cannot be told from the one before it: rows of the second hour look an hour old. So when the offset falls, the overlap is
two hours longer for some hours.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Final, NamedTuple

from dimesh.sourcekit.budget import Priority
from dimesh_netsuite.client import Client, Page, RefusedQueryError, UnknownColumnError, UnknownTableError
from dimesh_netsuite.suiteql import UTC_FORMAT, parse_stamp

log = logging.getLogger("dimesh.cdc")

WIDER: Final = 7_200.0
"""The number of seconds by which the overlap is longer around the end of daylight-saving time."""
WIDE_FOR: Final = 3 * 3_600.0
"""The number of seconds for which it is longer after the offset fell."""
_PROBE: Final = (
    f"SELECT TO_CHAR(SYS_EXTRACT_UTC(SYSTIMESTAMP), '{UTC_FORMAT}') AS utc, "
    "TO_CHAR(SYSDATE, 'YYYY-MM-DD\"T\"HH24:MI:SS') AS here FROM dual"
)


class Moment(NamedTuple):
    """What the probe found."""

    now: float
    """The time by the clock of the database, in seconds since the epoch."""
    offset: int | None
    """The offset of the account's time from UTC in minutes; None: unknown."""


class AccountClock:
    """Probes the clock of the account."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._refused = False

    async def probe(self, priority: Priority = Priority.STREAM) -> Moment:
        """Return the time and the offset of the account."""
        if not self._refused:
            try:
                page = await self._client.query(_PROBE, priority, "the clock of the account")
                return _moment(page)
            except (RefusedQueryError, UnknownTableError, UnknownColumnError) as error:
                self._refused = True
                log.warning(
                    "NetSuite does not answer the query for its time zone: the overlap is always two hours longer (%s)",
                    error,
                )
        return Moment(self._client.time(), None)


def _moment(page: Page) -> Moment:
    try:
        (row,) = page.rows
        now = parse_stamp(str(row["utc"]))
        here = datetime.fromisoformat(str(row["here"])).replace(tzinfo=UTC)
    except (LookupError, ValueError) as error:
        raise RefusedQueryError("NetSuite answered without the time that it was asked for") from error
    return Moment(now.timestamp(), round((here - now).total_seconds() / 900) * 15)


def wide_until(before: int | None, moment: Moment, wide: float) -> float:
    """Return the time until which the overlap is longer.

    Args:
        before: the offset at the last probe.
        moment: what the probe found now.
        wide: the time that was decided before.
    """
    if moment.offset is None or (before is not None and moment.offset < before):
        return max(wide, moment.now + WIDE_FOR)
    return wide
