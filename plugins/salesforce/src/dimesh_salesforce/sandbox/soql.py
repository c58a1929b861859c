"""The part of SOQL that capture and its tests use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from dimesh.sourcekit.sandbox import Row
from dimesh_salesforce.sandbox.org import Org, SalesforceRefused
from dimesh_salesforce.sandbox.table import Table

_QUERY: Final = re.compile(
    r"\s*SELECT\s+(?P<what>.+?)\s+FROM\s+(?P<object>\w+)(?:\s+WHERE\s+(?P<where>.+?))?"
    r"(?:\s+GROUP\s+BY\s+(?P<group>\w+))?(?:\s+ORDER\s+BY\s+(?P<order>\w+)(?:\s+(?P<way>ASC|DESC))?)?(?:\s+LIMIT\s+(?P<limit>\d+))?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_CONDITION: Final = re.compile(
    r"\s*(?P<name>\w+)\s*(?P<how><=|>=|!=|=|<|>|\bIN\b|\bLIKE\b)\s*(?P<value>\((?:[^()']|'[^']*')*\)|'(?:[^'\\]|\\.)*'|[^\s()]+)\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query."""

    object: str
    columns: list[str]
    """The columns; empty for ``COUNT()``."""
    conditions: list[tuple[str, str, Any]] = field(default_factory=list)
    descending: bool = False
    limit: int | None = None
    group: str = ""
    """The field of which each value is returned once."""

    def rows(self, org: Org, after: int = 0, deleted: bool = False) -> Iterator[Row]:
        """Walk through the matching records in the order of their ids, after a number; with a group, through one of each."""
        found = self._matching(org, after, deleted)
        yield from {row[self.group]: row for row in found}.values() if self.group else found

    def _matching(self, org: Org, after: int, deleted: bool) -> Iterator[Row]:
        table = org.tables[self.object]
        lowest, highest, listed = self._bounds(table)
        if listed is not None:
            source: Iterator[Row] = iter([row for n in sorted(listed) if n > after and (row := table.get(n))])
        else:
            source = table.rows(max(after, lowest), highest, self.descending)
        if deleted:
            bin_ = [row for n, row in sorted(table.deleted.items()) if n > after and n not in table.purged]
            source = iter(sorted([*source, *bin_], key=lambda row: str(row["Id"]), reverse=self.descending))
        archived = self.object in org.archives and not deleted
        for found in source:
            if archived and found.get("IsArchived"):
                continue  # only queryAll has them (documentation, *queryAll*)
            row = found if found["IsDeleted"] else org.seen(self.object, found)
            if row is None:
                continue
            if org.unseen and org.unseen.get(row["Id"], 0.0) > org.now():
                continue
            if all(_TESTS[how](row.get(name), value) for name, how, value in self.conditions):
                yield row

    def _bounds(self, table: Table) -> tuple[int, int | None, list[int] | None]:
        lowest, highest, listed = 0, None, None
        for name, how, value in self.conditions:
            if name == "Id" and how == ">":
                lowest = max(lowest, table.number(value))
            elif name == "Id" and how == "<=":
                highest = table.number(value)
            elif name == "Id" and how in ("IN", "="):
                listed = [table.number(id) for id in (value if how == "IN" else [value])]
        return lowest, highest, listed


def _compared(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(have: Any, wanted: Any) -> bool:
        if have is None or wanted is None:
            return False
        if isinstance(wanted, datetime):
            have = datetime.fromisoformat(have)
        return test(have, wanted)

    return compare


def _same(have: Any, wanted: Any) -> bool:
    if isinstance(wanted, datetime) and isinstance(have, str):
        return datetime.fromisoformat(have) == wanted
    return bool(have == wanted)


_TESTS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": _same,
    "!=": lambda have, wanted: not _same(have, wanted),
    "<": _compared(lambda a, b: bool(a < b)),
    ">": _compared(lambda a, b: bool(a > b)),
    "<=": _compared(lambda a, b: bool(a <= b)),
    ">=": _compared(lambda a, b: bool(a >= b)),
    "IN": lambda have, wanted: have in wanted,
    "LIKE": lambda have, wanted: (
        re.fullmatch(
            re.escape(str(wanted)).replace("%", ".*").replace("_", "."), str(have or ""), re.IGNORECASE
        )
        is not None
    ),
}


def parse(text: str, org: Org) -> Query:
    """Parse a query.

    Raises:
        SalesforceRefused: as Salesforce would refuse the query.
    """
    found = _QUERY.match(text)
    if found is None:
        raise SalesforceRefused(400, "MALFORMED_QUERY", f"unexpected token: {text[:40]!r}")
    name = next((n for n in org.kinds if n.lower() == found["object"].lower()), None)
    if name is None or name in org.forbidden:
        raise SalesforceRefused(
            400,
            "INVALID_TYPE",
            f"sObject type '{found['object']}' is not supported. If you are attempting to use a custom object, be sure to "
            "append the '__c' after the entity name.",
        )
    known = {
        column: kind for column, kind, _ in org.kinds[name].columns() if (name, column) not in org.hidden
    }
    what = found["what"].strip()
    if what.upper() == "COUNT()":
        columns: list[str] = []
    elif what.upper() == "FIELDS(ALL)":
        columns = [column for column, kind in known.items() if kind not in ("address", "location")]
    else:
        columns = [part.strip() for part in what.split(",")]
    by_case = {column.lower(): column for column in known}
    for column in columns:
        if column.lower() not in by_case:
            raise SalesforceRefused(400, "INVALID_FIELD", f"No such column '{column}' on entity '{name}'.")
    conditions = []
    for n, part in enumerate(
        re.split(r"\s+AND\s+", found["where"], flags=re.IGNORECASE) if found["where"] else ()
    ):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise SalesforceRefused(
                400, "MALFORMED_QUERY", f"unexpected token: {part[:40]!r} (condition {n + 1})"
            )
        tested = by_case.get(match["name"].lower())
        if tested is None:
            raise SalesforceRefused(
                400, "INVALID_FIELD", f"No such column '{match['name']}' on entity '{name}'."
            )
        conditions.append((tested, match["how"].upper(), _value(match["value"])))
    if found["order"] and found["order"].lower() != "id":
        raise SalesforceRefused(400, "MALFORMED_QUERY", "this sandbox orders by Id only")
    limit = int(found["limit"]) if found["limit"] else None
    group = by_case.get((found["group"] or "").lower(), "")
    if (found["group"] or group) and columns != [group]:
        raise SalesforceRefused(400, "MALFORMED_QUERY", "this sandbox selects the field of the group only")
    return Query(
        name,
        [by_case[column.lower()] for column in columns],
        conditions,
        (found["way"] or "").upper() == "DESC",
        limit,
        group,
    )


def _value(text: str) -> Any:
    if text.startswith("("):
        return [_value(part) for part in re.findall(r"'(?:[^'\\]|\\.)*'|[^\s,()]+", text[1:-1])]
    if text.startswith("'"):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    if text.lower() in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text.lower()]
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise SalesforceRefused(400, "MALFORMED_QUERY", f"unexpected token: {text[:40]!r}") from None
