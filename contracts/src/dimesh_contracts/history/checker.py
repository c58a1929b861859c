"""Checks a history. The checker knows what is promised, but not how any backend works."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from dimesh_contracts.history.entries import (
    Acknowledged,
    Assigned,
    CommitBegun,
    Crashed,
    DeadLettered,
    Delivered,
    Entry,
    Handled,
    Left,
    PublishBegun,
    Refused,
    Started,
    Subscribed,
)


class Kind(Enum):
    """The kinds of violations."""

    LOST = "an acknowledged event was not handled"
    ORDER = "an event was handled before an earlier one of its key"
    COMMIT_AHEAD = "a position was committed ahead of handling"
    DUPLICATE = "an event was handled again without an interruption that explains it, or too often"
    CHANGED = "an event was delivered that nobody published like that"
    REFUSED_DELIVERED = "an event was delivered whose publish was refused"
    POSITION_REUSED = "two events have one position"


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not happen."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind.name}: {self.text}"


@dataclass(slots=True)
class _Publish:
    topic: str
    id: str
    key: str
    digest: str
    begun: int
    acknowledged: int | None = None
    refused: bool = False
    delayed: bool = False
    """Whether the record is held back until it is due; it takes its place in the order then."""


@dataclass(slots=True)
class _Group:
    """One group's view of one topic."""

    subscribed: int | None = None
    base: dict[int, int] = field(default_factory=dict)
    """The offset at which the group started, by partition."""
    handled: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    """The times and processes of handling, by event id; dead letters count as handled."""
    committed: dict[int, int] = field(default_factory=dict)
    left: list[tuple[int, str, frozenset[int]]] = field(default_factory=list)


def check(
    history: Iterable[Entry],
    *,
    complete: bool = False,
    repeats_per_interruption: int | None = None,
    ordered: bool = True,
) -> list[Violation]:
    """Return the violations in a history; empty if it is correct.

    An interruption is a crash, or a member that gives partitions up. After both, another member may handle events again that
    were handled but could not be committed yet, since an earlier event was still being handled.

    Args:
        history: entries in the order in which they happened.
        complete: whether the run ended with all groups idle, so that what was not handled is lost.
        repeats_per_interruption: the number of events that may be handled again after each interruption; None: any number.
        ordered: whether the backend promises the order of keys.

    Raises:
        ValueError: the history is incomplete; the message names the entry.

    Groups with a filter cannot be checked: what a filter leaves out looks like a loss.
    """
    return _Checker().run(list(history), complete, repeats_per_interruption, ordered)


class _Checker:
    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.publishes: dict[tuple[str, str], list[_Publish]] = defaultdict(list)
        self.positions: dict[tuple[str, int, int], str] = {}
        self.by_partition: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
        self.spots: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        self.groups: dict[tuple[str, str], _Group] = defaultdict(_Group)
        self.crashes: list[tuple[int, str]] = []

    def wrong(self, kind: Kind, text: str) -> None:
        self.violations.append(Violation(kind, text))

    def run(
        self, history: list[Entry], complete: bool, repeats: int | None, ordered: bool
    ) -> list[Violation]:
        for index, entry in enumerate(history):
            self.take(index, entry)
        for (topic, name), group in self.groups.items():
            self.duplicates(topic, name, group, repeats)
            if complete and (group.subscribed is not None or group.base):
                self.lost(topic, name, group)
            if ordered:
                self.order(topic, name, group)
        return self.violations

    # -- entry by entry --------------------------------------------------------------------------

    def take(self, index: int, entry: Entry) -> None:
        match entry:
            case PublishBegun(topic=topic, ids=ids, keys=keys, digests=digests):
                for identity, key, content in zip(ids, keys, digests, strict=True):
                    self.publishes[topic, identity].append(_Publish(topic, identity, key, content, index))
            case Acknowledged(topic=topic, ids=ids, positions=positions):
                for identity, position in zip(ids, positions, strict=True):
                    publish = self.last_publish(index, topic, identity)
                    publish.acknowledged = index
                    publish.delayed = position is None
                    if position is not None:
                        self.place(topic, position, identity)
            case Refused(topic=topic, ids=ids):
                for identity in ids:
                    self.last_publish(index, topic, identity).refused = True
            case Subscribed(topic=topic, group=name):
                group = self.groups[topic, name]
                group.subscribed = index if group.subscribed is None else group.subscribed
            case Assigned(topic=topic, group=name, offsets=offsets):
                group = self.groups[topic, name]
                for partition, offset in offsets.items():
                    group.base.setdefault(partition, offset)
            case Delivered():
                self.delivered(entry)
            case (
                Handled(topic=topic, group=name, id=identity, process=process)
                | DeadLettered(topic=topic, group=name, id=identity, process=process)
            ):
                self.groups[topic, name].handled[identity].append((index, process))
            case CommitBegun(topic=topic, group=name, offsets=offsets):
                for partition, offset in offsets.items():
                    self.commit(topic, name, partition, offset)
            case Crashed(process=process):
                self.crashes.append((index, process))
            case Left(topic=topic, group=name, process=process, partitions=partitions):
                self.groups[topic, name].left.append((index, process, frozenset(partitions)))
            case Started():
                pass
            case _:
                raise ValueError(
                    f"entry {index + 1} is {type(entry).__name__}, which is none: a file is read by "
                    "dimesh_contracts.history.entries.read"
                )

    def last_publish(self, index: int, topic: str, identity: str) -> _Publish:
        publishes = self.publishes.get((topic, identity))
        if not publishes:
            raise ValueError(
                f"entry {index + 1} is about {identity} of {topic}, which no entry before it published"
            )
        return publishes[-1]

    def place(self, topic: str, position: tuple[int, int], identity: str) -> None:
        known = self.positions.get((topic, *position))
        if known is None:
            self.positions[topic, *position] = identity
            self.spots[topic, identity].append(position)
        elif known != identity:
            self.wrong(Kind.POSITION_REUSED, f"{topic} {position} holds {known} and {identity}")
        self.by_partition[topic, position[0]][position[1]] = identity

    def delivered(self, entry: Delivered) -> None:
        publishes = self.publishes.get((entry.topic, entry.id), [])
        if not any(p.digest == entry.digest and p.key == entry.key for p in publishes):
            said = "with another payload or key" if publishes else "whose id nobody published"
            self.wrong(Kind.CHANGED, f"{entry.topic} delivered {entry.id} {said}")
        elif all(p.refused for p in publishes):
            self.wrong(Kind.REFUSED_DELIVERED, f"{entry.topic} delivered {entry.id}")
        if entry.offset >= 0:
            self.place(entry.topic, (entry.partition, entry.offset), entry.id)

    def commit(self, topic: str, name: str, partition: int, offset: int) -> None:
        group = self.groups[topic, name]
        begin = group.committed.get(partition, group.base.get(partition, 0))
        known = self.by_partition[topic, partition]
        for at in range(begin, offset) if offset - begin < 2 * len(known) + 2 else sorted(known):
            identity = known.get(at)
            if begin <= at < offset and identity is not None and identity not in group.handled:
                self.wrong(
                    Kind.COMMIT_AHEAD,
                    f"group {name} committed {topic} {partition}:{offset}, but {identity} at {at} is not handled",
                )
        group.committed[partition] = max(offset, begin)

    # -- over the whole --------------------------------------------------------------------------

    def duplicates(self, topic: str, name: str, group: _Group, limit: int | None) -> None:
        repeats = 0
        for identity, handlings in group.handled.items():
            for (first, process), (again, _) in itertools.pairwise(handlings):
                repeats += 1
                if not self.explained(group, topic, identity, process, first, again):
                    self.wrong(
                        Kind.DUPLICATE,
                        f"group {name} of {topic} handled {identity} again, and {process} had neither crashed nor left",
                    )
        interruptions = len(self.crashes) + len(group.left)
        if limit is not None and repeats > limit * interruptions:
            self.wrong(
                Kind.DUPLICATE,
                f"group {name} of {topic} handled {repeats} events again after {interruptions} interruptions; "
                f"{limit} for each are allowed",
            )

    def explained(
        self, group: _Group, topic: str, identity: str, process: str, first: int, again: int
    ) -> bool:
        """Return whether the process that handled an event first was interrupted before the event was handled again."""
        if any(first < at < again and who == process for at, who in self.crashes):
            return True
        partitions = {partition for partition, _ in self.spots.get((topic, identity), ())}
        return any(
            first < at < again and who == process and (not gone or gone & partitions)
            for at, who, gone in group.left
        )

    def meant_for(self, topic: str, group: _Group) -> list[_Publish]:
        """Return the acknowledged events that the group has to handle."""
        found = []
        for (where, identity), publishes in self.publishes.items():
            if where != topic:
                continue
            for publish in publishes:
                if publish.acknowledged is None or publish.refused:
                    continue
                if group.subscribed is None or publish.begun < group.subscribed:
                    # It may be from before the group's start: where it stands decides.
                    spots = self.spots[topic, identity]
                    if not any(at >= group.base.get(partition, 0) for partition, at in spots):
                        continue
                found.append(publish)
                break
        return found

    def lost(self, topic: str, name: str, group: _Group) -> None:
        for publish in self.meant_for(topic, group):
            if publish.id not in group.handled:
                self.wrong(
                    Kind.LOST, f"group {name} of {topic} never handled {publish.id}, key {publish.key!r}"
                )

    def order(self, topic: str, name: str, group: _Group) -> None:
        """Check the order of each key: event A precedes event B if A was acknowledged before the publish of B began."""
        by_key: dict[str, list[_Publish]] = defaultdict(list)
        for (where, identity), publishes in self.publishes.items():
            if where == topic and identity in group.handled and not publishes[0].delayed:
                by_key[publishes[0].key].append(publishes[0])
        for publishes in by_key.values():
            waiting = sorted((p for p in publishes if p.acknowledged is not None), key=_acknowledged)
            handled: set[str] = set()
            oldest = 0
            for publish in sorted(publishes, key=lambda p: group.handled[p.id][0][0]):
                while oldest < len(waiting) and waiting[oldest].id in handled:
                    oldest += 1
                if oldest < len(waiting):
                    first = waiting[oldest]
                    if first.id != publish.id and _acknowledged(first) < publish.begun:
                        self.wrong(
                            Kind.ORDER,
                            f"group {name} of {topic} handled {publish.id} before {first.id}, key {publish.key!r}",
                        )
                handled.add(publish.id)


def _acknowledged(publish: _Publish) -> int:
    assert publish.acknowledged is not None
    return publish.acknowledged
