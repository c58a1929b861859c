"""The next version of a schema, made by the helpers of its language."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dimesh.errors import ConfigurationError, NotOfferedError
from dimesh.events.names import show
from dimesh.registry import SchemaRegistry
from dimesh.spi.schema import Change, EvolvingLanguage


@dataclass(frozen=True, slots=True)
class Evolved:
    """A schema after some changes, and whether it could be registered."""

    subject: str
    base: int
    """The version that was changed."""
    format: str
    text: str
    compatible: bool
    reasons: tuple[str, ...]
    mode: str
    """The mode that it was compared under."""
    policy: str
    version: int | None = None
    """The version under which it was registered; None: it was not."""


def parse_changes(
    add: Sequence[str], default: Sequence[str], rename: Sequence[str], deprecate: Sequence[str]
) -> list[Change]:
    """Return changes from the options of the command line, in this order.

    Args:
        add: ``NAME=SCHEMA``: a field; the schema is a type such as ``string``, or JSON.
        default: ``NAME=VALUE``: the default of a field of ``add``; JSON, or text.
        rename: ``OLD=NEW``.
        deprecate: ``NAME=MESSAGE``.

    Raises:
        ConfigurationError: one has another form, or there is none.
    """
    defaults = dict(_pair("--default", text) for text in default)
    changes = []
    for text in add:
        name, field = _pair("--add", text)
        value = (_json(defaults.pop(name)),) if name in defaults else None
        changes.append(Change("add", name, _json(field), value))
    if defaults:
        raise ConfigurationError(f"--default {next(iter(defaults))}=…: there is no --add of that field")
    for kind, option, texts in (("rename", "--rename", rename), ("deprecate", "--deprecate", deprecate)):
        for text in texts:
            name, other = _pair(option, text)
            changes.append(Change("rename" if kind == "rename" else "deprecate", name, text=other))
    if not changes:
        raise ConfigurationError("no change is given: use --add, --rename or --deprecate")
    return changes


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        forms = {"--add": "NAME=SCHEMA", "--rename": "OLD=NEW", "--deprecate": "NAME=MESSAGE"}
        raise ConfigurationError(
            f"{option} {show(text)}: write {forms.get(option, 'NAME=VALUE')}, such as {option} currency=string"
        )
    return name.strip(), value.strip()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


async def evolve(
    registry: SchemaRegistry, subject: str, changes: Sequence[Change], *, register: bool = False
) -> Evolved:
    """Return the newest version of a subject after some changes.

    Args:
        registry: the registry.
        subject: the subject.
        changes: the changes, made in their order.
        register: whether to register the result, if it is compatible.

    Raises:
        SubjectNotFoundError: there is no such subject.
        NotOfferedError: its language has no helpers.
        InvalidSchemaError: a change is not possible.
    """
    newest = await registry.registered(subject)
    language = registry.parser.language(newest.schema.language)
    if not isinstance(language, EvolvingLanguage):
        raise NotOfferedError(
            f"{subject} is written in {newest.schema.language}, which has no helpers for changes: edit its text, and check it "
            "with 'dimesh schema check'"
        )
    text = language.evolve(newest.schema, changes)
    content = newest.stored.content
    result = await registry.compatibility(subject, text, content.format, references=content.references)
    settings = await registry.settings(subject)
    version = None
    if register and result:
        stored = await registry.register(
            subject,
            text,
            content.format,
            references=content.references,
            metadata=content.metadata,
            rule_set=content.rule_set,
        )
        version = stored.version
    return Evolved(
        subject,
        newest.version,
        content.format,
        text,
        result.compatible,
        result.reasons,
        settings.compatibility.value,
        settings.policy,
        version,
    )
