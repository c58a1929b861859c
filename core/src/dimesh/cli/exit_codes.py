"""Exit codes of the ``dimesh`` command."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command ended with. The numbers are part of the interface."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "done"
    FAILED = 1, "something failed; the message says what"
    USAGE = 2, "the command line is wrong"
    CONFIGURATION = 3, "a setting is wrong or missing"
    PLUGIN = 4, "a plugin is missing, broken or of another version"
    UNAVAILABLE = 5, "the bus, broker or storage cannot be used"
    PARTIAL = 6, "a part was done: some events or entries were refused"
    NOT_FOUND = 7, "no such topic, group or entry"
    INTERRUPTED = 130, "interrupted"
