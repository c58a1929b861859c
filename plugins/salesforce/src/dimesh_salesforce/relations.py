"""Rows that change because their parent is deleted or merged, without an event of their own.

Triggers do not run for the children that a delete takes along (SFDO-Community/declarative-lookup-rollup-summaries #257), nor
for those that a merge gives another parent (Apex Developer Guide, *Triggers and Merge Statements*). Whether such children have
change events is unconfirmed. So the delete of a parent makes the streams of its children ask for them: the deleted ones, which
keep their parent in the recycle bin, and all children of the row that the parent was merged into.

Until that is published, the position of the parent's stream stays before the delete: after a crash, the delete is read once
more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dimesh.clock import Clock
from dimesh.printable import printable
from dimesh.sourcekit.budget import Priority
from dimesh_salesforce.fields import Fields
from dimesh_salesforce.rows import Row, Rows, id_list

log = logging.getLogger("dimesh.cdc.salesforce")

_PATIENCE: Final = 3_600.0
"""The number of seconds for which a position is held back while the stream of the children does not work."""
_MAX_CHILDREN: Final = 2_000
"""The number of children above which the whole object is read again."""
_MAX_PARENTS: Final = 100


@dataclass(eq=False, slots=True)
class Question:
    """Which children of deleted rows changed."""

    parent: Fields
    ids: list[str]
    """The deleted rows."""
    asking: str
    """The stream that reported the deletes."""
    child: str
    """The object of the children."""
    field: str
    """The field of the children that refers to the parent."""
    asked: float
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The children that changed."""

    rows: Sequence[Row]
    """Those that have another parent now."""
    deleted: Sequence[str]
    """The ids of those that were deleted."""
    too_many: bool = False


class Relations:
    """The streams of one source, and what they have to ask for."""

    def __init__(
        self, rows: Rows, clock: Clock, read_lag: float, fields_of: Callable[[str], Awaitable[Fields]]
    ) -> None:
        self._rows = rows
        self._clock = clock
        self._read_lag = read_lag
        self._fields_of = fields_of
        self._streams: dict[str, str] = {}
        self._open: list[Question] = []
        self.reread: set[str] = set()
        """The objects whose questions could not be answered in time: they are to be read again."""

    def follow(self, stream: str, names: Iterable[str]) -> None:
        """Note that a stream has the changes of objects. Its open questions are asked again: it may have ended in the middle."""
        self._streams |= dict.fromkeys(names, stream)
        for question in self._open:
            if self._streams.get(question.child) == stream:
                question.answered = False

    def deleted(self, stream: str, parent: Fields, ids: Sequence[str]) -> None:
        """Note that rows were deleted."""
        now = self._clock.monotonic()
        for child, field in parent.children:
            if child not in self._streams:
                continue
            left = list(ids)
            for known in self._open:
                about = (known.parent.object, known.asking, known.child, known.field)
                if not known.answered and about == (parent.object, stream, child, field):
                    room = _MAX_PARENTS - len(known.ids)
                    if left[:room]:  # a mass delete makes few questions
                        known.ids += left[:room]
                        known.asked, left = now, left[room:]
            for begin in range(0, len(left), _MAX_PARENTS):
                part = left[begin : begin + _MAX_PARENTS]
                self._open.append(Question(parent, part, stream, child, field, now))

    def holds(self, stream: str) -> bool:
        """Return whether the position of a stream must stay where it is."""
        if not self._open:
            return False
        now = self._clock.monotonic()
        for question in [one for one in self._open if now - one.asked > _PATIENCE]:
            self._open.remove(question)
            self.reread.add(question.child)
            log.warning(
                "children of deleted rows of %s cannot be compared: %s will be read again",
                printable(question.parent.object),
                printable(question.child),
            )
        return any(question.asking == stream for question in self._open)

    def due(self, stream: str) -> list[Question]:
        """Return the questions that a stream has to answer now: a read may lag behind the deletes."""
        if not self._open:
            return []
        until = self._clock.monotonic() - self._read_lag
        return [
            one
            for one in self._open
            if not one.answered and one.asked <= until and self._streams.get(one.child) == stream
        ]

    def finish(self, question: Question) -> None:
        """Note that an answer was published."""
        if question in self._open:
            self._open.remove(question)

    async def answer(self, question: Question) -> Answer:
        """Ask Salesforce which children changed."""
        fields = await self._fields_of(question.child)
        if question.field not in fields.types:
            return Answer((), ())  # the user may not see the field
        parent, name, among = question.parent, question.child, id_list(question.ids)
        deleted: list[Row] = []
        if "IsDeleted" in fields.types:
            text = f"SELECT Id FROM {name} WHERE IsDeleted = true AND {question.field} IN ({among})"
            deleted = await self._rows.query(text, name, Priority.STREAM, "queryAll")
        masters: set[str] = set()
        if "MasterRecordId" in parent.types:
            text = (
                f"SELECT Id, MasterRecordId FROM {parent.object} WHERE IsDeleted = true AND Id IN ({among})"
            )
            merged = await self._rows.query(text, parent.object, Priority.STREAM, "queryAll")
            masters = {row["MasterRecordId"] for row in merged if row["MasterRecordId"]}
        found: list[Row] = []
        if masters:
            text = f"SELECT Id FROM {name} WHERE {question.field} IN ({id_list(sorted(masters))})"
            found = await self._rows.query(f"{text} LIMIT {_MAX_CHILDREN + 1}", name, Priority.STREAM)
        if len(found) > _MAX_CHILDREN:
            return Answer((), [row["Id"] for row in deleted], True)
        rows = await self._rows.rows_by_id(fields, [row["Id"] for row in found])
        return Answer(list(rows.values()), [row["Id"] for row in deleted])
