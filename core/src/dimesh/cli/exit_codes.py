"""Exit codes of the ``dimesh`` command."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit code of a command. The numbers are part of the interface."""

    meaning: str
    """The meaning, for ``--help`` and the documentation."""

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "done"
    FAILED = 1, "the command failed, as its message explains"
    USAGE = 2, "the command line is invalid"
    CONFIGURATION = 3, "a setting is invalid or missing"
    PLUGIN = 4, "a plugin is missing, broken or incompatible"
    UNAVAILABLE = 5, "the bus, broker, storage or port is unavailable"
    PARTIAL = 6, "partly done: some events or entries were refused"
    NOT_FOUND = 7, "the topic, group, event or entry does not exist"
    INTERRUPTED = 130, "interrupted"
