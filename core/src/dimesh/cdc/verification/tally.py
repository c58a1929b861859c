"""What a verification has counted, and how it is reported."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from dimesh.cdc.absences import split
from dimesh.cdc.reports import VerifiedReport
from dimesh.cdc.verification.bounds import CONFIDENCE, bounds
from dimesh.cdc.verification.comparison import Incomparable, Kind

MOST_WRONG: Final = 10_000
"""The largest number of wrong rows that are told apart."""
MOST_LISTED: Final = 100
"""The largest number of wrong rows that are listed."""


@dataclass(frozen=True, slots=True)
class FeedError:
    """A row whose publication is wrong."""

    key: str
    """The key of the row in the store."""
    kind: Kind
    fields: tuple[str, ...]
    """The fields that differ; empty if the row as a whole does."""

    def described(self, object: str) -> dict[str, Any]:
        """Return the error as plain values, with the key of the row and without its values."""
        name, primary_key = split(self.key, object)
        return {
            "object": name,
            "primary_key": primary_key,
            "kind": self.kind.value,
            "fields": list(self.fields),
        }


@dataclass(slots=True)
class Tally:
    """The counts of one object since a time."""

    since: float
    rows: int = 0
    """The number of rows that were compared."""
    draws: int = 0
    """The number of independent draws. Rows that are listed together are one draw: neighbours may share errors."""
    wrong_draws: int = 0
    """The number of draws with an error."""
    sightings: int = 0
    """The number of times that a compared row was wrong: a row that is drawn again counts again, as it does in ``rows``."""
    wrong: dict[str, FeedError] = field(default_factory=dict)
    """The wrong rows, by the key of the store; no more than :data:`MOST_WRONG` are told apart."""
    incomparable: Counter[str] = field(default_factory=Counter)
    """The number of rows that were not compared, by reason."""
    skipped: Counter[str] = field(default_factory=Counter)
    """The number of rows by field that was not compared."""
    requests: int = 0

    @property
    def differing(self) -> int:
        """The number of wrong rows."""
        return len(self.wrong)

    @property
    def kinds(self) -> Counter[str]:
        """The number of wrong rows, by kind."""
        return Counter(error.kind.value for error in self.wrong.values())

    @property
    def fields(self) -> Counter[str]:
        """The number of wrong rows, by field."""
        return Counter(name for error in self.wrong.values() for name in error.fields)

    @property
    def share(self) -> float:
        """The share of rows with an error among the compared ones."""
        return self.sightings / self.rows if self.rows else 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds of the share of draws with an error. The upper bound holds for the share of wrong rows, too: if a share of
        the rows is wrong, at least that share of the draws has a wrong row.
        """
        return bounds(self.wrong_draws, self.draws)

    def record(self, error: FeedError) -> None:
        """Count a row with an error."""
        self.sightings += 1
        if len(self.wrong) < MOST_WRONG:
            self.wrong[error.key] = error

    def leave_out(self, reason: Incomparable, rows: int = 1) -> None:
        """Count rows that were not compared."""
        self.incomparable[reason.value] += rows

    def add(self, other: Tally) -> None:
        """Add what was counted after this."""
        self.rows += other.rows
        self.draws += other.draws
        self.wrong_draws += other.wrong_draws
        self.sightings += other.sightings
        self.requests += other.requests
        self.incomparable.update(other.incomparable)
        self.skipped.update(other.skipped)
        for key, error in other.wrong.items():
            if key in self.wrong or len(self.wrong) < MOST_WRONG:
                self.wrong[key] = error

    def report(self, now: float) -> VerifiedReport:
        """Return the counts for the report of the connector."""
        return VerifiedReport(
            since=self.since,
            at=now,
            rows=self.rows,
            upper=self.bounds[1],
            kinds=dict(self.kinds),
            fields=dict(self.fields),
            requests=self.requests,
        )

    def numbers(self) -> dict[str, Any]:
        """Return the counts as plain values, without keys or values of rows."""
        lower, upper = self.bounds
        return {
            "rows": self.rows,
            "differing": self.differing,
            "share": self.share,
            "draws": self.draws,
            "wrong_draws": self.wrong_draws,
            "draws_lower": lower,
            "draws_upper": upper,
            "confidence": CONFIDENCE,
            "kinds": dict(self.kinds),
            "fields": dict(self.fields),
            "not_compared": dict(self.incomparable),
            "fields_not_compared": dict(self.skipped),
            "requests": self.requests,
        }


class Pseudonyms:
    """Replaces keys by digests with a random salt that is kept nowhere: equal keys of one report stay equal, and no key can be
    found by trying.
    """

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(32)

    def of(self, *parts: str) -> str:
        """Return the pseudonym of a key."""
        text = "\n".join(parts).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self._salt, digest_size=8).hexdigest()

    def errors(self, errors: Iterable[FeedError], *scope: str) -> list[Mapping[str, Any]]:
        """Return the first errors, without the keys of their rows."""
        return [
            {"row": self.of(*scope, error.key), "kind": error.kind.value, "fields": list(error.fields)}
            for error in islice(errors, MOST_LISTED)
        ]
