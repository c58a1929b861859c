"""The text of queries. Names and values are checked here: nothing else may build a query."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from dimesh.errors import SourceObjectError

Kind = Literal["text", "date", "time"]
UTC_FORMAT: Final = 'YYYY-MM-DD"T"HH24:MI:SS"Z"'
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_NUMBER: Final = re.compile(r"-?\d{1,30}")
STAMP_ALIAS: Final = "dimesh_stamp"
CREATED_ALIAS: Final = "dimesh_created"


class Column(NamedTuple):
    """A column of a table."""

    name: str
    kind: Kind = "text"

    @property
    def expression(self) -> str:
        """The expression that selects the column. A date that is selected plainly comes in the display format of the user."""
        name = checked_name(self.name)
        if self.kind == "date":
            return f"TO_CHAR(t.{name}, 'YYYY-MM-DD') AS {name}"
        if self.kind == "time":
            return f"{utc(name)} AS {name}"
        return f"t.{name}"


def checked_name(name: str) -> str:
    """Return a name of a table or column.

    Raises:
        SourceObjectError: it cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise SourceObjectError(
            f"the NetSuite source cannot capture {name!r:.80}: it is no name of a table or column"
        )
    return name


def number(value: object) -> str:
    """Return an internal id.

    Raises:
        SourceObjectError: it is no number.
    """
    text = str(value)
    if not _NUMBER.fullmatch(text):
        raise SourceObjectError(f"{text!r:.80} is no internal id of NetSuite")
    return text


def text(value: str) -> str:
    """Return a literal."""
    return "'" + value.replace("'", "''") + "'"


def utc(column: str, table: str = "t") -> str:
    """Return the expression of a time as text in UTC. It sorts by time, and no setting of the user changes it."""
    return f"TO_CHAR(SYS_EXTRACT_UTC({table}.{checked_name(column)}), '{UTC_FORMAT}')"


def stamp_text(seconds: float) -> str:
    """Return a time as :func:`utc` gives it."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_stamp(stamp: str) -> datetime:
    """Return the time that :func:`utc` gave.

    Raises:
        ValueError: it has another form.
    """
    if len(stamp) != 20 or stamp[-1] != "Z":
        raise ValueError(f"{stamp[:40]!r} is no time in UTC")
    return datetime.fromisoformat(stamp)


def since(column: str, stamp: str, table: str = "t") -> str:
    """Return the condition that a time is not before ``stamp``: exact in UTC, behind a coarse one that an index can serve.

    A literal is in the time zone of the account, so that the coarse bound is two days earlier.
    """
    day = (parse_stamp(stamp) - timedelta(days=2)).strftime("%Y-%m-%d")
    coarse = f"{table}.{checked_name(column)} >= TO_DATE('{day}', 'YYYY-MM-DD')"
    return f"{coarse} AND {utc(column, table)} >= '{stamp}'"


def after(expressions: Sequence[str], values: Sequence[str]) -> str:
    """Return the condition that a row follows another one in the order of these expressions.

    Args:
        expressions: the expressions of the order, the most significant first.
        values: the literals of the other row.
    """
    parts = []
    for n, (expression, value) in enumerate(zip(expressions, values, strict=True)):
        same = [f"{expressions[m]} = {values[m]}" for m in range(n)]
        parts.append("(" + " AND ".join([*same, f"{expression} > {value}"]) + ")")
    return "(" + " OR ".join(parts) + ")"


def select(columns: Iterable[str], table: str, where: Iterable[str] = (), order: Iterable[str] = ()) -> str:
    """Return a query of one table, which is called ``t``."""
    conditions, by = [c for c in where if c], list(order)
    return (
        f"SELECT {', '.join(columns)} FROM {checked_name(table)} t"
        + (f" WHERE {' AND '.join(conditions)}" if conditions else "")
        + (f" ORDER BY {', '.join(by)}" if by else "")
    )
