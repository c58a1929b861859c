"""What a verification cannot see, in words."""

from __future__ import annotations

from collections.abc import Sequence


def describe_blind_spots(lists: bool, reads: bool, values: bool, everything: bool) -> Sequence[str]:
    """Return what a verification did not see.

    Args:
        lists: whether the source lists rows from the middle.
        reads: whether the source can be asked for single rows.
        values: whether the store keeps the values of rows.
        everything: whether all rows were compared.
    """
    found = ["events of the past: only the last published state of each row is compared"]
    found.append("what became of the events after they were published")
    found.append("rows that the source neither lists nor lets read, with this key or user")
    if not everything:
        found.append("errors in fewer rows than the upper bound says")
        if not lists:
            found.append(
                "rows that were never published: this source lists rows from the first one on only; use --all"
            )
    if not reads:
        found.append("deletes that were lost: this source cannot be asked for single rows")
    if not values:
        found.append("values: [cdc] last_state is off, so only the keys of rows are stored")
    return found
