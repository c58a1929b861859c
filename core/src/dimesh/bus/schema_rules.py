"""Which topics are checked against the registry, by which subjects, and what happens to an event that fails the check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeVar

from dimesh.bus.patterns import TopicSelection
from dimesh.bus.topics import OWN
from dimesh.errors import ConfigurationError
from dimesh.events.names import show
from dimesh.events.topics import DEAD_LETTER_SUFFIX

E = TypeVar("E", bound=StrEnum)

MAX_TOPICS: Final = 10_000
"""The number of topics whose rule is remembered."""


class Action(StrEnum):
    """What happens to an event that does not satisfy its schema."""

    REJECT = "reject"
    """The publish raises. Before a handler it is the same as ``dead-letter``: there is nobody to give the event back to."""
    DEAD_LETTER = "dead-letter"
    """The event becomes a dead letter of the topic, and the publish succeeds: its receipt names the dead-letter topic. A request
    and a reply are rejected, since somebody waits for them."""
    WARN = "warn"
    """The event is passed on as it is, and the log and the metrics report it."""
    OFF = "off"
    """Nothing is checked."""


class SubjectName(StrEnum):
    """How the subject of an event is named."""

    EVENT_TYPE = "event-type"
    """``event.<type>``."""
    TOPIC = "topic"
    """``<topic>-value``, as Confluent's TopicNameStrategy names it: all events of the topic have one schema."""
    TOPIC_AND_TYPE = "topic-and-type"
    """``<topic>-<type>``, as Confluent's TopicRecordNameStrategy names it."""


class Unknown(StrEnum):
    """What happens to an event whose subject has no schema."""

    PASS = "pass"  # noqa: S105 - no password
    """It is passed on."""
    WARN = "warn"
    """It is passed on and reported."""
    FAIL = "fail"
    """It fails the check, as if it did not satisfy its schema."""


class Unavailable(StrEnum):
    """What happens while the registry cannot be asked, to events of subjects that are not known yet."""

    FAIL = "fail"
    """The publish raises the error of the registry; a handling is tried again later."""
    WARN = "warn"
    """Events are passed on unchecked, and that is reported."""


@dataclass(frozen=True, slots=True)
class SchemaRule:
    """The rule of some topics.

    Raises:
        EventError: a topic or pattern is not acceptable.
        ConfigurationError: a value is unknown; the message lists the values.
    """

    topics: tuple[str, ...] | None = None
    """Names of topics and patterns such as ``orders.*``; None: every topic, those of replies included. Dead letters are checked
    only where they are named."""
    publish: Action = Action.REJECT
    consume: Action = Action.DEAD_LETTER
    subject: SubjectName = SubjectName.EVENT_TYPE
    unknown: Unknown = Unknown.PASS
    unavailable: Unavailable = Unavailable.FAIL

    def __post_init__(self) -> None:
        if self.topics is not None:
            TopicSelection(self.topics)
        for name, kind in (
            ("publish", Action),
            ("consume", Action),
            ("subject", SubjectName),
            ("unknown", Unknown),
            ("unavailable", Unavailable),
        ):
            object.__setattr__(self, name, _member(kind, getattr(self, name), name))


class TopicRule:
    """The rule of one topic, ready for use.

    Args:
        rule: the rule.
        topic: the topic.
    """

    __slots__ = ("_prefix", "_whole", "consume", "publish", "topic", "unavailable", "unknown")

    def __init__(self, rule: SchemaRule, topic: str) -> None:
        self.topic = topic
        self.publish = None if rule.publish is Action.OFF else rule.publish
        """What happens at publish; None: nothing is checked."""
        self.consume = None if rule.consume is Action.OFF else rule.consume
        """What happens before a handler; None: nothing is checked."""
        self.unknown = rule.unknown
        self.unavailable = rule.unavailable
        self._whole = f"{topic}-value" if rule.subject is SubjectName.TOPIC else None
        self._prefix = "event." if rule.subject is SubjectName.EVENT_TYPE else f"{topic}-"

    def subject(self, event_type: str) -> str:
        """Return the subject of events of a type."""
        return self._whole or self._prefix + event_type


class SchemaRules:
    """The rules of one bus; the first one that wants a topic is its rule.

    Args:
        rules: the rules.
    """

    def __init__(self, rules: Iterable[SchemaRule]) -> None:
        self._rules = [(rule, None if rule.topics is None else TopicSelection(rule.topics)) for rule in rules]
        self._found: dict[str, TopicRule | None] = {}

    def of(self, topic: str) -> TopicRule | None:
        """Return the rule of a topic; None: it is not checked."""
        try:
            return self._found[topic]
        except KeyError:
            if len(self._found) >= MAX_TOPICS:
                self._found.clear()
            found = self._found[topic] = self._find(topic)
            return found

    def _find(self, topic: str) -> TopicRule | None:
        own = topic.startswith(OWN)
        for rule, selection in self._rules:
            if selection is not None:
                if selection.wants(topic):
                    return TopicRule(rule, topic)
            elif own:
                # Replies have types of their own, which nobody registers, and topics that nobody knows beforehand.
                if rule.subject is SubjectName.EVENT_TYPE:
                    return TopicRule(replace(rule, unknown=Unknown.PASS), topic)
            elif not topic.endswith(DEAD_LETTER_SUFFIX):
                return TopicRule(rule, topic)
        return None


def _member(kind: type[E], value: object, name: str) -> E:
    try:
        return kind(str(value))
    except ValueError:
        names = ", ".join(kind)
        raise ConfigurationError(f"{name} of a schema rule is {show(value)}: use one of {names}") from None
