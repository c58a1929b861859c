"""The result of one check of ``dimesh doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """The outcome of one check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check and its outcome."""

    check: str
    outcome: Outcome
    detail: str
    advice: str = ""
    """What to do about it; empty where nothing is to be done."""


def warn_if(bad: bool) -> Outcome:
    """Return a warning if something is not as it should be."""
    return Outcome.WARNING if bad else Outcome.OK
