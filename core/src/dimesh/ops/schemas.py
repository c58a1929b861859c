"""Schemas: listing, registering, comparing and inferring them, as typed results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from dimesh.errors import ConfigurationError, SubjectNotFoundError
from dimesh.events import strictjson
from dimesh.registry import Comparison, SchemaRegistry
from dimesh.registry.model import SchemaFormat
from dimesh.spi.registry import Reference

SUFFIXES: Final = {".json": "JSON_SCHEMA", ".avsc": "AVRO", ".proto": "PROTOBUF"}
"""The languages of schema files, by the ends of their names."""


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """A subject and its newest version."""

    subject: str
    versions: int
    latest: int
    format: str
    compatibility: str


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version in the history of a subject."""

    version: int
    schema_id: int
    format: str
    created: datetime
    deprecated: bool
    change: str
    """How the version differs from the one before, as the policy of the subject sees it: ``first``, ``compatible`` or the
    reasons."""


@dataclass(frozen=True, slots=True)
class CheckRow:
    """The answer to whether a schema could be registered."""

    subject: str
    file: str
    compatible: bool
    reasons: tuple[str, ...]
    witnesses: tuple[Any, ...]
    """The documents that one version allows and another one refuses."""


async def list_subjects(registry: SchemaRegistry, prefix: str = "") -> list[SubjectRow]:
    """Return the subjects whose names begin with a prefix."""
    rows = []
    for subject in await registry.list_subjects():
        if not subject.startswith(prefix):
            continue
        found = await registry.get_subject(subject)
        latest = found.get_version()
        mode = found.compatibility_mode.value
        rows.append(SubjectRow(subject, len(found.versions), latest.version, _name(latest.format), mode))
    return rows


async def history(registry: SchemaRegistry, subject: str) -> list[VersionRow]:
    """Return the versions of a subject, each with what changed.

    Raises:
        SubjectNotFoundError: there is no such subject.
    """
    found = await registry.get_subject(subject)
    rows: list[VersionRow] = []
    for number, version in sorted(found.versions.items()):
        change = "first"
        if rows:
            result = await registry.compatibility(
                subject,
                version.text,
                version.format,
                references=version.references,
                version=rows[-1].version,
            )
            change = "compatible" if result else "; ".join(result.reasons)
        name = _name(version.format)
        rows.append(
            VersionRow(number, version.schema_id, name, version.created_at, version.deprecated, change)
        )
    return rows


async def diff(registry: SchemaRegistry, subject: str, old: int, new: int) -> list[Comparison]:
    """Return how two versions of a subject read each other's data, under the policy of the subject: first the new one the old
    one's.

    Raises:
        SubjectNotFoundError: there is no such version.
    """
    settings = await registry.settings(subject)
    one, two = await registry.registered(subject, old), await registry.registered(subject, new)
    language = registry.parser.language(two.schema.language)
    return [
        Comparison(old, True, language.compare(one.schema, two.schema, settings.policy)),
        Comparison(old, False, language.compare(two.schema, one.schema, settings.policy)),
    ]


async def check_files(
    registry: SchemaRegistry, files: Iterable[tuple[str, Path]], references: Sequence[Reference] = ()
) -> list[CheckRow]:
    """Return for each file whether its schema could be registered now.

    Args:
        registry: the registry.
        files: the subjects and files.
        references: what each of the schemas refers to.

    Raises:
        InvalidSchemaError: a file has no valid schema.
    """
    rows = []
    for subject, path in files:
        text, format_ = read_schema(path)
        result = await registry.compatibility(subject, text, format_, references=references)
        witnesses = [c.verdict.witness.value for c in result.comparisons if c.verdict.witness is not None]
        rows.append(CheckRow(subject, str(path), result.compatible, result.reasons, tuple(witnesses)))
    return rows


def schema_files(folder: Path) -> list[tuple[str, Path]]:
    """Return the schema files of a folder with their subjects: the name of a file without its end.

    Raises:
        ConfigurationError: there are none.
    """
    found = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if not found:
        raise ConfigurationError(f"{folder} has no schemas: name the files <subject>{'|'.join(SUFFIXES)}")
    return [(path.stem, path) for path in found]


def read_schema(path: Path) -> tuple[str, str]:
    """Return the text of a schema file, and the name of its language by the end of the file's name.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"{path} cannot be read: {reason}") from None
    return text, SUFFIXES.get(path.suffix, "JSON_SCHEMA")


def parse_reference(text: str) -> Reference:
    """Return a reference from ``NAME=SUBJECT:VERSION``.

    Raises:
        ConfigurationError: the text has another form.
    """
    name, _, target = text.partition("=")
    subject, _, version = target.rpartition(":")
    if not (name and subject and version.isascii() and version.isdigit()):
        raise ConfigurationError(
            f"{text!r:.80} is no reference: write NAME=SUBJECT:VERSION, such as money.json=money:1"
        )
    return Reference(name, subject, int(version))


async def delete(registry: SchemaRegistry, subject: str, version: int | None, permanent: bool) -> list[int]:
    """Delete a subject or a version; return the versions that were deleted.

    Raises:
        SubjectNotFoundError: there is no such subject or version.
    """
    deleted = await registry.delete_versions(subject, version, permanent=permanent)
    if not deleted:
        raise SubjectNotFoundError(f"there is no subject {subject!r:.80}")
    return list(deleted)


def read_samples(path: Path) -> list[Any]:
    """Return the JSON documents of a file: one document, or one in each line.

    Raises:
        ConfigurationError: the file cannot be read.
        PayloadError: a line is not strict JSON.
    """
    text, _ = read_schema(path)
    try:
        whole = json.loads(text)
    except ValueError:
        return [strictjson.loads(line) for line in text.splitlines() if line.strip()]
    return whole if isinstance(whole, list) else [whole]


def _name(format: SchemaFormat | str) -> str:
    return format if isinstance(format, str) else format.value
