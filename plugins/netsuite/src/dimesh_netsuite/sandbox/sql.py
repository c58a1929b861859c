"""SuiteQL on SQLite: sqlglot translates the dialect, which follows Oracle's. A query that SuiteQL answers strangely is answered
so here.

Sources are named as in :mod:`dimesh_netsuite.sandbox.facts`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import sqlglot
from sqlglot import exp
from sqlglot.dialects.oracle import Oracle
from sqlglot.errors import SqlglotError

from dimesh.sourcekit.sandbox import Refused

if TYPE_CHECKING:
    from dimesh_netsuite.sandbox.account import Account

MOST_COLUMNS: Final = 100
"""The number of columns above which a query answers without rows and without an error (reported: documentation of Estuary)."""
CAP: Final = 100_000
"""The largest number of rows of a query (Oracle, *SuiteQL Performance and Best Practices*)."""
_UTC_FORMAT: Final = 'YYYY-MM-DD"T"HH24:MI:SS"Z"'
_OWN: Final = {"TO_CHAR", "TO_DATE", "TO_TIMESTAMP", "TO_NUMBER", "SYS_EXTRACT_UTC"}
_NOW: Final = {"sysdate", "systimestamp", "current_timestamp", "current_date"}
_NOW_NODES: Final = {"systimestamp", "currenttimestamp", "currentdate", "currentdatetime", "localtimestamp"}
_TOKENS: Final = re.compile(r'"[^"]*"|YYYY|HH24|HH|MM|MI|DD|SS|x?FF\d?|AM|PM|.', re.DOTALL)
_CODES: Final = {
    "YYYY": "%Y", "MM": "%m", "DD": "%d", "HH24": "%H", "HH": "%I", "MI": "%M", "SS": "%S", "AM": "%p", "PM": "%p",
    "xFF": ".%f", "FF": "%f",
}  # fmt: skip


class QueryRefused(Refused):
    """A query that NetSuite refuses."""

    def __init__(self, detail: str, code: str = "INVALID_PARAMETER", status: int = 400) -> None:
        super().__init__(status, detail)
        self.code = code


def refused(reason: str) -> QueryRefused:
    """Return the refusal of a query (recorded)."""
    return QueryRefused(
        f"Invalid search query. Detailed unprocessed description follows. Search error occurred: {reason}"
    )


class SuiteQL(Oracle):
    """The dialect. Functions of times stay as they are written: SQLite gets functions of these names."""

    class Parser(Oracle.Parser):  # type: ignore[misc, valid-type]
        FUNCTIONS = {name: make for name, make in Oracle.Parser.FUNCTIONS.items() if name not in _OWN}


class Result(NamedTuple):
    """The rows of a query, in pages."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    total: int
    """The number of all rows; counted up to a little more than the cap."""


class Engine:
    """Runs queries on the tables of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._install(account.database)

    def run(self, text: str, limit: int, offset: int) -> Result:
        """Return a page of a query.

        Raises:
            QueryRefused: NetSuite refuses the query.
        """
        try:
            (parsed,) = sqlglot.parse(text, dialect=SuiteQL)
        except (SqlglotError, ValueError, RecursionError):
            raise refused("Invalid or unsupported search.") from None
        if not isinstance(parsed, exp.Select | exp.SetOperation):
            raise refused("Invalid or unsupported search.")
        query = self._translated(parsed)
        if len(query.named_selects) > MOST_COLUMNS:
            return Result([], [], 0)
        sql = query.sql(dialect="sqlite")
        database = self._account.database
        try:
            cursor = database.execute(f"SELECT * FROM ({sql}) LIMIT ? OFFSET ?", (limit, offset))
            rows = cursor.fetchall()
            columns = [column[0].lower() for column in cursor.description]
            total = offset + len(rows)
            if len(rows) >= limit or offset:
                (total,) = database.execute(
                    f"SELECT COUNT(*) FROM (SELECT 1 FROM ({sql}) LIMIT {CAP + 1})"
                ).fetchone()
        except sqlite3.Error as error:
            raise refused(f"Invalid or unsupported search. ({error})") from None
        return Result(columns, rows, total)

    # -- translation -------------------------------------------------------------------------------

    def _translated(self, parsed: exp.Query) -> exp.Query:
        account = self._account
        parsed = _without_ignored(parsed)
        for node in list(parsed.walk()):
            if type(node).__name__.lower() in _NOW_NODES:
                node.replace(exp.Anonymous(this="NS_NOW"))
        names: dict[str, str] = {}
        for table in list(parsed.find_all(exp.Table)):
            name = table.name.lower()
            if name not in account.tables or not account.role.sees(name):
                raise refused(f"Record '{table.name}' was not found.")
            names[(table.alias or table.name).lower()] = name
        derived = {s.alias.lower() for s in parsed.find_all(exp.Subquery, exp.CTE) if s.alias}
        aliases = {a.alias.lower() for a in parsed.find_all(exp.Alias)}
        for column in list(parsed.find_all(exp.Column)):
            self._check(column, names, derived, aliases)
        outer = parsed.find(exp.Select) if not isinstance(parsed, exp.Select) else parsed
        assert outer is not None
        self._expand(outer, names)
        for node in list(outer.expressions):
            self._display(node, names)
        for column in list(parsed.find_all(exp.Column)):
            self._typed(column, names)
        for call in list(parsed.find_all(exp.Anonymous)):
            self._call(call, names)
        for table in list(parsed.find_all(exp.Table)):
            self._restricted(table)
        for identifier in parsed.find_all(exp.Identifier):
            identifier.set("this", identifier.name.lower())
            identifier.set("quoted", True)
        return parsed

    def _check(self, column: exp.Column, names: dict[str, str], derived: set[str], aliases: set[str]) -> None:
        name, table = column.name.lower(), column.table.lower()
        if table == "builtin" or isinstance(column.this, exp.Star) or table in derived:
            return
        if not table and (name in _NOW or name == "rownum" or name in aliases or derived):
            return
        candidates = (
            [names[table]] if table in names else [] if table else list(dict.fromkeys(names.values()))
        )
        account = self._account
        if not any(name in account.tables[t] and account.role.sees(t, name) for t in candidates):
            shown = ", ".join(f"{alias}={of}" for alias, of in names.items())
            raise refused(f"Unknown identifier '{column.name}'. Available identifiers are: {{{shown}}}.")

    def _expand(self, select: exp.Select, names: dict[str, str]) -> None:
        """Replace a star by the columns that the role sees."""
        expanded: list[exp.Expression] = []
        for node in select.expressions:
            star = isinstance(node, exp.Star) or (
                isinstance(node, exp.Column) and isinstance(node.this, exp.Star)
            )
            if not star:
                expanded.append(node)
                continue
            wanted = node.table.lower() if isinstance(node, exp.Column) else ""
            for alias, table in names.items():
                if wanted in ("", alias):
                    columns = [c for c in self._account.tables[table] if self._account.role.sees(table, c)]
                    expanded += [exp.column(c, table=alias, quoted=True) for c in columns]
        select.set("expressions", expanded)

    def _display(self, node: exp.Expression, names: dict[str, str]) -> None:
        """Show a date or time that is selected plainly in the display format of the user (reported: without the time)."""
        inner = node.this if isinstance(node, exp.Alias) else node
        if isinstance(inner, exp.Column) and self._type(inner, names) in ("date", "time"):
            alias = node.alias if isinstance(node, exp.Alias) else inner.name
            shown = exp.Anonymous(this="NS_DISPLAY", expressions=[inner.copy()])
            node.replace(exp.alias_(shown, alias.lower(), quoted=True))

    def _typed(self, column: exp.Column, names: dict[str, str]) -> None:
        name, table = column.name.lower(), column.table.lower()
        if not table and name in _NOW:
            column.replace(exp.Anonymous(this="NS_NOW"))
        elif self._type(column, names) == "date":
            parent = column.parent
            plain = isinstance(parent, exp.Anonymous) and str(parent.this).upper() in (
                "NS_DISPLAY",
                "TO_CHAR",
            )
            if not plain and not isinstance(parent, exp.Ordered | exp.Alias | exp.Count):
                column.replace(exp.Anonymous(this="NS_DAY", expressions=[column.copy()]))

    def _call(self, call: exp.Anonymous, names: dict[str, str]) -> None:
        name = str(call.this).upper()
        if name == "DF" and isinstance(call.parent, exp.Dot):
            call.parent.replace(exp.Anonymous(this="NS_DF", expressions=[e.copy() for e in call.expressions]))
        elif name == "TO_CHAR" and len(call.expressions) == 2:
            inner, form = call.expressions
            plain = isinstance(inner, exp.Anonymous) and str(inner.this).upper() == "SYS_EXTRACT_UTC"
            if plain and form.name == _UTC_FORMAT and not self._account.stamps_without_offset:
                (moment,) = inner.expressions
                if isinstance(moment, exp.Column):  # the same in SQLite's own words, since every row needs it
                    call.set("this", "strftime")
                    call.set(
                        "expressions",
                        [
                            exp.Literal.string("%Y-%m-%dT%H:%M:%SZ"),
                            moment.copy(),
                            exp.Literal.string("unixepoch"),
                        ],
                    )
        elif name == "SYS_EXTRACT_UTC" and self._account.stamps_without_offset:
            if isinstance(call.expressions[0], exp.Column):
                call.set("this", "NS_UTC_OF_LOCAL")

    def _type(self, column: exp.Column, names: dict[str, str]) -> str | None:
        table = column.table.lower()
        tables = [names[table]] if table in names else [] if table else list(names.values())
        found = (self._account.tables[t].get(column.name.lower()) for t in tables)
        return next((kind for kind in found if kind is not None), None)

    def _restricted(self, table: exp.Table) -> None:
        """Leave out the rows that the role does not see. NetSuite gives no hint of them (Oracle, *Role considerations*)."""
        account, name = self._account, table.name.lower()
        conditions = []
        if (name,) in {(hidden,) for hidden, _ in account.hidden}:
            ids = ", ".join(str(int(id)) for hidden, id in account.hidden if hidden == name)
            conditions.append(f"id NOT IN ({ids})")
        allowed = account.role.subsidiaries
        if allowed is not None and "subsidiary" in account.tables[name]:
            conditions.append(f"subsidiary IN ({', '.join(str(int(id)) for id in sorted(allowed)) or '-1'})")
        if conditions:
            inner = f'SELECT * FROM "{name}" WHERE {" AND ".join(conditions)}'
            made = exp.Subquery(this=sqlglot.parse_one(inner, dialect="sqlite"))
            made.set("alias", exp.TableAlias(this=exp.to_identifier(table.alias or name, quoted=True)))
            table.replace(made)

    # -- functions ---------------------------------------------------------------------------------

    def _install(self, database: sqlite3.Connection) -> None:
        account = self._account

        def add(name: str, count: int, function: Callable[..., Any], fixed: bool = True) -> None:
            database.create_function(name, count, function, deterministic=fixed)

        def extract(moment: Any) -> Any:
            return None if moment is None else f"utc:{int(moment)}"

        def extract_local(moment: Any) -> Any:
            """Return the time of a column without an offset: of the hour that is repeated, the first one."""
            if moment is None:
                return None
            wall = datetime.fromtimestamp(int(moment), account.zone).replace(fold=0, tzinfo=None)
            return f"utc:{int(wall.replace(tzinfo=account.zone).timestamp())}"

        def day(value: Any) -> Any:
            return None if value is None else _epoch(str(value), "YYYY-MM-DD", account.zone)

        add("TO_CHAR", 2, lambda value, form: _formatted(value, form, account.zone))
        add("TO_CHAR", 1, lambda value: None if value is None else str(value))
        add("TO_NUMBER", 1, lambda value: None if value is None else float(value))
        add("TO_DATE", 2, lambda value, form: _epoch(value, form, account.zone))
        add("TO_TIMESTAMP", 2, lambda value, form: _epoch(value, form, account.zone))
        add("SYS_EXTRACT_UTC", 1, extract)
        add("NS_UTC_OF_LOCAL", 1, extract_local)
        add("NS_DAY", 1, day)
        add("NS_NOW", 0, lambda: int(account.now()), fixed=False)
        add("NS_DF", 1, lambda value: None if value is None else str(value))
        add("NS_DISPLAY", 1, lambda value: account.displayed(value), fixed=False)


def _without_ignored(parsed: exp.Query) -> exp.Query:
    """Return the query without OFFSET, which is ignored (reported), and with ROWNUM as a limit."""
    for offset in list(parsed.find_all(exp.Offset)):
        offset.pop()
    for column in list(parsed.find_all(exp.Column)):
        if column.name.lower() != "rownum" or column.table:
            continue
        comparison = column.parent
        select = column.find_ancestor(exp.Select)
        if not isinstance(comparison, exp.LTE | exp.LT) or select is None or select.args.get("order"):
            raise refused("Invalid or unsupported search.")
        most = int(comparison.expression.name) - (1 if isinstance(comparison, exp.LT) else 0)
        comparison.replace(exp.true())
        select.limit(most, copy=False)
    return parsed


def _form(oracle: str, parse: bool) -> str:
    found = []
    for token in _TOKENS.findall(oracle):
        if token.startswith('"'):
            found.append(token[1:-1].replace("%", "%%"))
        elif token in _CODES:
            found.append(_CODES[token])
        else:
            found.append(token)
    return "".join(found)


def _formatted(value: Any, form: str, zone: ZoneInfo) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and value.startswith("utc:"):
        moment = datetime.fromtimestamp(int(value[4:]), UTC)
    elif isinstance(value, str):
        moment = datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=zone)
    else:
        moment = datetime.fromtimestamp(int(value), zone)
    return moment.strftime(_form(form, False))


def _epoch(value: Any, form: str, zone: ZoneInfo) -> int | None:
    """Return the time of a literal, which is in the time zone of the account."""
    if value is None:
        return None
    wall = datetime.strptime(str(value), _form(form, True)).replace(tzinfo=zone)
    return int(wall.timestamp())
