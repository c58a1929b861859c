"""From the text of a schema to a parsed one: languages, references, limits, and a cache."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from dimesh.errors import InvalidSchemaError, PayloadError, PluginError, ReferenceNotFoundError
from dimesh.events import strictjson
from dimesh.events.names import show
from dimesh.plugins import default_manager
from dimesh.registry.jsonschema.language import JsonSchema
from dimesh.spi.registry import DEFAULT_CONTEXT, Reference, SchemaContent, StoredSchema, context_of
from dimesh.spi.schema import ParsedSchema, SchemaLanguage

MAX_SCHEMA: Final = 4 * 1024 * 1024
"""The greatest number of characters of a schema, and of a schema with everything that it refers to."""
MAX_REFERENCED: Final = 500
"""The greatest number of schemas that one schema may refer to, directly or through others."""
MAX_CACHED: Final = 1_000
_LONG: Final = 20_000
"""Texts of more characters are parsed in a thread, so that the event loop goes on."""


class Lookup(Protocol):
    """The part of a store that the parser needs."""

    async def get(
        self, subject: str, version: int | None = None, *, deleted: bool = False
    ) -> StoredSchema | None:
        """Return a version."""
        ...


class SchemaParser:
    """Parses schemas with what they refer to.

    Args:
        store: where references lead.
        find: returns a language by its name, beside JSON Schema, or raises a PluginError; None: the installed plugins.
    """

    def __init__(self, store: Lookup, find: Callable[[str], SchemaLanguage] | None = None) -> None:
        self._store = store
        self._find = find
        json_schema = JsonSchema()
        self._languages: dict[str, SchemaLanguage] = {json_schema.name: json_schema}
        self._parsed: OrderedDict[str, ParsedSchema] = OrderedDict()
        """By identity. A content never changes, so an entry is never out of date."""

    def language(self, name: str) -> SchemaLanguage:
        """Return a language. Its plugin is imported at the first use.

        Raises:
            InvalidSchemaError: the language is not installed; the message says how to install it.
        """
        known = self._languages.get(name)
        if known is None:
            if self._find is None:
                self._find = default_manager().schema_language
            try:
                known = self._languages[name] = self._find(name)
            except PluginError as error:
                raise InvalidSchemaError(
                    f"the schema language {show(name)} cannot be used: {error}"
                ) from error
        return known

    async def content(
        self,
        subject: str,
        schema: Any,
        format: str,
        references: Sequence[Reference] = (),
        metadata: Mapping[str, Any] | None = None,
        rule_set: Mapping[str, Any] | None = None,
    ) -> tuple[SchemaContent, ParsedSchema]:
        """Return a new schema as it is to be stored, and parsed.

        Args:
            subject: the subject; references without a context of their own belong to its context.
            schema: the text, or the JSON values of a language that is written in JSON.
            format: the name of the language.
            references: what the schema refers to.
            metadata: what belongs to the identity of the schema.
            rule_set: the rules, in the shape of Confluent's API.

        Raises:
            InvalidSchemaError: the schema is not valid in its language, or exceeds a limit.
            ReferenceNotFoundError: a reference leads nowhere.
        """
        language = self.language(format)
        try:
            text = schema if isinstance(schema, str) else strictjson.dumps(schema).decode("utf-8")
            extra = [strictjson.loads(strictjson.dumps(part or {})) for part in (metadata, rule_set)]
        except PayloadError as error:
            raise InvalidSchemaError(f"the schema is not JSON: {error}") from None
        _limit(len(text))
        names = [reference.name for reference in references]
        if len(set(names)) != len(names):
            raise InvalidSchemaError("two references have the same name: give each another one")
        qualified = tuple(_qualified(reference, subject) for reference in references)
        targets = await self._targets(qualified, {}, len(text))
        parsed = await _parse(language, text, targets)
        return SchemaContent(format, text, parsed.canonical, qualified, *extra), parsed

    async def parse(self, content: SchemaContent) -> ParsedSchema:
        """Return a stored schema, parsed.

        Raises:
            InvalidSchemaError: the language is not installed, or the stored schema is not valid in it.
            ReferenceNotFoundError: a reference leads nowhere.
        """
        key = content.identity
        known = self._parsed.get(key)
        if known is not None:
            self._parsed.move_to_end(key)
            return known
        targets = await self._targets(content.references, {}, len(content.text))
        return self._keep(key, await _parse(self.language(content.format), content.text, targets))

    def _keep(self, key: str, parsed: ParsedSchema) -> ParsedSchema:
        self._parsed[key] = parsed
        while len(self._parsed) > MAX_CACHED:
            self._parsed.popitem(last=False)
        return parsed

    async def _targets(
        self, references: Sequence[Reference], seen: dict[tuple[str, int], ParsedSchema | None], size: int
    ) -> dict[str, ParsedSchema]:
        """Return what references lead to, parsed, by the names of the references.

        ``seen`` has what was found on the way; None: it is being parsed, so that a reference to it is a circle. ``size`` is the
        number of characters so far.
        """
        found: dict[str, ParsedSchema] = {}
        for reference in references:
            key = (reference.subject, reference.version)
            if key not in seen:
                if len(seen) >= MAX_REFERENCED:
                    raise InvalidSchemaError(
                        f"the schema refers to more than {MAX_REFERENCED} schemas: split it"
                    )
                # Soft-deleted schemas keep what refers to them readable.
                stored = await self._store.get(reference.subject, reference.version, deleted=True)
                if stored is None:
                    raise ReferenceNotFoundError(
                        f"the reference {show(reference.name)} leads to subject {show(reference.subject)}, version "
                        f"{reference.version}, which does not exist: register it first"
                    )
                seen[key] = None
                size += len(stored.text)
                _limit(size)
                targets = await self._targets(stored.content.references, seen, size)
                identity = stored.content.identity
                seen[key] = self._parsed.get(identity) or self._keep(
                    identity, await _parse(self.language(stored.format), stored.text, targets)
                )
            parsed = seen[key]
            if parsed is None:
                raise InvalidSchemaError(
                    f"subject {show(reference.subject)}, version {reference.version}, refers to itself through "
                    "other schemas: registered schemas must not form a circle"
                )
            found[reference.name] = parsed
        return found


def _limit(size: int) -> None:
    if size > MAX_SCHEMA:
        raise InvalidSchemaError(
            f"the schema, with what it refers to, has {size:,} characters, more than the limit of {MAX_SCHEMA:,}"
        )


def _qualified(reference: Reference, subject: str) -> Reference:
    context = context_of(subject)
    if context == DEFAULT_CONTEXT or reference.subject.startswith(":."):
        return reference
    return Reference(reference.name, f":{context}:{reference.subject}", reference.version)


async def _parse(language: SchemaLanguage, text: str, references: Mapping[str, ParsedSchema]) -> ParsedSchema:
    if len(text) > _LONG:
        return await asyncio.to_thread(language.parse, text, references)
    return language.parse(text, references)
