"""The promises of a change source."""

from __future__ import annotations

from dimesh_contracts.contract import Guarantee


class CDCGuarantee(Guarantee):
    """Promises of a change source."""

    STATED = "A source states exactly the capabilities that it has, and lists what it can capture."
    UNKNOWN_OBJECT = (
        "An object that does not exist or is not permitted is an error that names it, never an empty feed."
    )
    SNAPSHOT = "A snapshot has every row that exists throughout, even if it is resumed in the middle."
    HAND_OVER = (
        "A stream from a position taken before the snapshot misses nothing that the snapshot did not see."
    )
    COMPLETE = "A stream delivers every change, in order for each key, with its operation and the row."
    WHOLE = "A row is whole, or says which of its lists are cut."
    CURRENT = "A field that changes leave out, such as a formula, is read again or named as not current."
    SILENT = (
        "A change that the system reports by no event is found by listing the rows again, or the row says so."
    )
    NEW_ONLY = "A stream delivers nothing from before the position, however long ago the last change was."
    CLOCK = "Positions come from the system's clock or log: a clock of ours that is wrong loses nothing."
    RESUME = "A stream resumes without a hole from every position that it has returned."
    IDENTITY = "A change has the same identity whenever it is read, and no other change has it."
    BEFORE = "An update or delete carries the row as it was, and states the origin of that row."
    KEYS = "Every change names its row: what the system tells about no row is left out."
    DELETES = "Deleted rows are reported."
    DESCRIBED = "The description of an object has every field that its rows have."
    POSITION_LOST = (
        "A position that the source does not know is an error, never a silent start somewhere else."
    )
    GAPS = "Changes that the system has forgotten are an error or a gap, and never left out silently."
    REPAIR = "After changes were lost, a new reading gives the current rows: deleted ones are found, too."
    ABSENCE = (
        "A row that a list leaves out is not published as deleted: only what the system says was deleted is."
    )
    CREDENTIALS = "Credentials that expire during a stream are an error of their own, and nothing is lost."
    UNEXPECTED = "An answer that is not the system's own, such as the page of a proxy, is retried, and says nothing about a row."
    BUDGET = "A system that limits requests gets none for as long as it asks, and nothing is lost."
    SAMPLED = "Rows from the middle of an object follow one order, in which each row has one place."
    DELIVERED = "A stream that says that it is complete up to a moment has yielded everything from before."
    CANCELLATION = "A stream that is cancelled or closed while it waits loses nothing."
