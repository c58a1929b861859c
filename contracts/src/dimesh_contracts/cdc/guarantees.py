"""What a change source promises."""

from __future__ import annotations

from dimesh_contracts.contract import Guarantee


class CDCGuarantee(Guarantee):
    """Promises of a change source."""

    STATED = "A source states exactly the capabilities that it has, and says what it can capture."
    UNKNOWN_OBJECT = (
        "An object that is not there, or not allowed, is an error that names it, and never an empty feed."
    )
    SNAPSHOT = "A snapshot has every row that exists throughout, also when it is resumed in the middle."
    HAND_OVER = (
        "A stream from a position taken before the snapshot misses nothing that the snapshot did not see."
    )
    COMPLETE = "A stream delivers every change, in order for each key, with its operation and the row."
    RESUME = "From any position that it gave out, a stream goes on without a hole."
    IDENTITY = "A change has the same identity whenever it is read, and no other change has it."
    BEFORE = "An update or delete carries the row as it was, and says where that comes from."
    DELETES = "Deleted rows are reported."
    DESCRIBED = "The description of an object has every field that its rows have."
    POSITION_LOST = (
        "A position that the source does not know is an error, never a silent start somewhere else."
    )
    GAPS = "Changes that the system has forgotten are an error or a gap, and never left out in silence."
    REPAIR = "After changes were lost, reading anew shows the rows as they are: what was deleted meanwhile is found."
    CREDENTIALS = (
        "Credentials that end while it streams are an error of their own, and nothing is lost by it."
    )
    BUDGET = (
        "A system that says that it is too much is left alone for as long as it says, and nothing is lost."
    )
    CANCELLATION = "A stream that is cancelled or closed while it waits loses nothing."
