"""The schema registry: validation, compatibility and versions over any store."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from dimesh.capabilities import Capability
from dimesh.errors import (
    ConfigurationError,
    IncompatibleSchemaError,
    InvalidSchemaError,
    SchemaError,
    SubjectNotFoundError,
    VersionConflictError,
)
from dimesh.events import strictjson
from dimesh.events.names import show
from dimesh.registry.compatibility import Policy, reasons_against
from dimesh.registry.model import (
    CompatibilityMode,
    CompatibilityResult,
    Problem,
    SchemaFormat,
    SchemaSubject,
    SchemaVersion,
)
from dimesh.registry.validation import Validator
from dimesh.spi.registry import RegistryStore, StoredSchema

MAX_SUBJECT: Final = 1_024
MAX_SCHEMA: Final = 4 * 1024 * 1024
MAX_VALIDATORS: Final = 1_000
CONFIG_KEY: Final = "compatibility"
DEFAULT_MODE: Final = CompatibilityMode.BACKWARD


class SchemaRegistry:
    """A registry over a store. Opens at first use.

    Args:
        store: keeps the versions.
        policy: what compatible means; see :mod:`dimesh.registry.compatibility`.
        on_registered: is told of each new version.
    """

    def __init__(
        self,
        store: RegistryStore,
        *,
        policy: Policy = "tolerant",
        on_registered: Callable[[StoredSchema], None] | None = None,
    ) -> None:
        self.store = store
        self.policy: Policy = policy
        self._on_registered = on_registered
        self._validators: OrderedDict[int, Validator] = OrderedDict()
        self._opening: asyncio.Lock = asyncio.Lock()
        self._open = False

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect now instead of at first use.

        Raises:
            StorageError: the store cannot be used.
        """
        async with self._opening:
            if not self._open:
                await self.store.open()
                self._open = True
                await self._prepare()

    async def _prepare(self) -> None:
        """For registries that begin with something in them."""

    async def close(self) -> None:
        """Free everything; may be called twice."""
        if self._open:
            self._open = False
            await self.store.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- registering -----------------------------------------------------------------------------

    async def register_schema(
        self,
        subject: str,
        schema: Mapping[str, Any] | bool | str,
        format: SchemaFormat = SchemaFormat.JSON_SCHEMA,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a version; the same content again gives the version it already has.

        Raises:
            InvalidSchemaError: not a schema that this registry takes.
            IncompatibleSchemaError: it breaks the subject's compatibility mode; ``reasons`` says where.
        """
        await self._ready()
        _check_subject(subject)
        document, text = _document(schema, format)
        for _ in range(100):
            live = await self.store.versions(subject)
            for stored in live:
                if _canonical(stored.text) == _canonical(text):
                    return stored.version
            result = await self._decide(subject, document, text, format, live)
            if not result:
                raise IncompatibleSchemaError(
                    f"the schema may not follow version {live[-1].version} of {show(subject)}: "
                    + "; ".join(map(_short, result.reasons[:5])),
                    result.reasons,
                )
            everything = await self.store.versions(subject, deleted=True)
            try:
                stored = await self.store.append(
                    subject,
                    expected_latest=everything[-1].version if everything else 0,
                    format=format.value,
                    text=text,
                    metadata=metadata,
                )
            except VersionConflictError:
                continue  # somebody was faster: decide again against what is there now
            if self._on_registered is not None:
                self._on_registered(stored)
            return stored.version
        raise VersionConflictError(
            f"subject {show(subject)} is registered to all the time by others; try again"
        )

    async def check_compatibility(
        self,
        subject: str,
        new_schema: Mapping[str, Any] | bool | str,
        format: SchemaFormat = SchemaFormat.JSON_SCHEMA,
    ) -> bool:
        """Whether the schema could be registered now; :meth:`compatibility` says why not."""
        return (await self.compatibility(subject, new_schema, format)).compatible

    async def compatibility(
        self,
        subject: str,
        new_schema: Mapping[str, Any] | bool | str,
        format: SchemaFormat = SchemaFormat.JSON_SCHEMA,
    ) -> CompatibilityResult:
        """Whether the schema could be registered now, with the reasons if not.

        Raises:
            InvalidSchemaError: it is no schema at all.
        """
        await self._ready()
        document, text = _document(new_schema, format)
        return await self._decide(subject, document, text, format, await self.store.versions(subject))

    async def _decide(
        self, subject: str, document: Any, text: str, format: SchemaFormat, live: Any
    ) -> CompatibilityResult:
        mode = await self.get_compatibility(subject)
        if Capability.DECIDES_COMPATIBILITY in self.store.capabilities:
            reasons = tuple(await self.store.check(subject, format.value, text))
            return CompatibilityResult(not reasons, reasons)
        if mode is CompatibilityMode.NONE or not live:
            return CompatibilityResult(True)
        # The schemas that a local registry begins with promise nothing to anybody.
        live = [stored for stored in live if not stored.metadata.get("default")]
        found: list[str] = []
        for stored in live if mode.transitive else live[-1:]:
            old = json.loads(stored.text)
            prefix = f"version {stored.version}"
            if mode.backward:
                found += [f"reading {prefix}: {r}" for r in reasons_against(old, document, self.policy)]
            if mode.forward:
                found += [f"read by {prefix}: {r}" for r in reasons_against(document, old, self.policy)]
        return CompatibilityResult(not found, tuple(found))

    async def get_compatibility(self, subject: str | None = None) -> CompatibilityMode:
        """The mode of a subject (its own, else the global one, else BACKWARD)."""
        await self._ready()
        if subject is not None:
            _check_subject(subject)
        for key in (subject, None) if subject is not None else (None,):
            value = (await self.store.get_config(key)).get(CONFIG_KEY)
            if value is not None:
                return CompatibilityMode(value)
        return DEFAULT_MODE

    async def set_compatibility(self, subject: str | None, mode: CompatibilityMode | str) -> None:
        """Set the mode of a subject; None: of all that have none of their own.

        Raises:
            ConfigurationError: no such mode.
        """
        await self._ready()
        try:
            value = CompatibilityMode(mode)
        except ValueError:
            names = ", ".join(m.value for m in CompatibilityMode)
            raise ConfigurationError(f"{show(mode)} is no compatibility mode; there are {names}") from None
        if subject is not None:
            _check_subject(subject)
        config = dict(await self.store.get_config(subject))
        await self.store.set_config(subject, {**config, CONFIG_KEY: value.value})

    # -- reading ---------------------------------------------------------------------------------

    async def get_schema(self, subject: str, version: int | None = None) -> SchemaVersion:
        """A version; None: the latest.

        Raises:
            SubjectNotFoundError: no such subject or version.
        """
        return _version(await self._stored(subject, version))

    async def _stored(self, subject: str, version: int | None) -> StoredSchema:
        await self._ready()
        live = await self.store.versions(subject) if _can_be_asked(subject) else ()
        if not live:
            raise SubjectNotFoundError(f"no subject is named {show(subject)}; register a schema for it first")
        if version is None:
            return live[-1]
        for stored in live:
            if stored.version == version:
                return stored
        have = ", ".join(str(stored.version) for stored in live)
        raise SubjectNotFoundError(f"subject {show(subject)} has no version {version}; it has {have}")

    async def get_subject(self, subject: str) -> SchemaSubject:
        """A subject with all its versions.

        Raises:
            SubjectNotFoundError: no such subject.
        """
        await self._stored(subject, None)
        versions = {s.version: _version(s) for s in await self.store.versions(subject)}
        mode = await self.get_compatibility(subject)
        return SchemaSubject(subject, versions, max(versions), mode, versions[max(versions)].metadata)

    async def list_subjects(self) -> list[str]:
        """Names of all subjects that have a version."""
        await self._ready()
        return list(await self.store.subjects())

    async def delete_subject(self, subject: str, *, permanent: bool = False) -> bool:
        """Remove a subject: its versions are no longer listed, but their numbers are not used again. With ``permanent``
        what was removed before goes for good. False if there was nothing.
        """
        await self._ready()
        if not _can_be_asked(subject):
            return False
        return bool(await self.store.delete(subject, permanent=permanent))

    async def deprecate(
        self, subject: str, version: int | None = None, *, when: datetime | None = None
    ) -> None:
        """Mark a version as deprecated, from ``when`` on (now by default).

        Raises:
            SubjectNotFoundError: no such version.
        """
        stored = await self._stored(subject, version)
        moment = when or stored.created_at.now(stored.created_at.tzinfo)
        await self.store.update_metadata(
            subject,
            stored.version,
            {**stored.metadata, "deprecated": True, "deprecation_date": moment.isoformat()},
        )

    # -- validating ------------------------------------------------------------------------------

    async def validator(self, subject: str, version: int | None = None) -> Validator:
        """The compiled validator of a version; compiled once.

        Raises:
            SubjectNotFoundError: no such subject or version.
        """
        stored = await self._stored(subject, version)
        known = self._validators.get(stored.schema_id)
        if known is None:
            known = Validator(json.loads(stored.text), f"{subject} (version {stored.version})")
            self._validators[stored.schema_id] = known
            while len(self._validators) > MAX_VALIDATORS:
                self._validators.popitem(last=False)
        else:
            self._validators.move_to_end(stored.schema_id)
        return known

    async def validate(self, subject: str, data: Any, version: int | None = None) -> bool:
        """Whether ``data`` satisfies the schema; :meth:`explain` says why not.

        Raises:
            SubjectNotFoundError: no such subject or version.
        """
        return (await self.validator(subject, version)).is_valid(data)

    async def explain(self, subject: str, data: Any, version: int | None = None) -> list[Problem]:
        """Where and why ``data`` does not satisfy the schema; empty if it does.

        Raises:
            SubjectNotFoundError: no such subject or version.
        """
        return (await self.validator(subject, version)).problems(data)

    async def _ready(self) -> None:
        if not self._open:
            await self.open()


def _can_be_asked(subject: str) -> bool:
    # A string with a lone surrogate cannot even be looked up.
    try:
        _check_subject(subject)
    except SchemaError:
        return False
    return True


def _short(reason: str) -> str:
    return reason if len(reason) <= 250 else f"{reason[:250]}…"


def _check_subject(subject: str) -> None:
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise SchemaError(
            f"{show(subject)} cannot be a subject: use 1 to {MAX_SUBJECT:,} printable characters, such as 'event.lead.generated'"
        )


def _document(schema: Mapping[str, Any] | bool | str, format: SchemaFormat) -> tuple[Any, str]:
    """The schema as a document and as text."""
    if format is not SchemaFormat.JSON_SCHEMA:
        raise InvalidSchemaError(
            f"this registry holds JSON Schema; {format.value} is not supported here yet: convert the schema, or use a "
            "remote registry"
        )
    try:
        if isinstance(schema, str):
            text = schema
            document = strictjson.loads(schema)
        else:
            text = strictjson.dumps(schema).decode("utf-8")
            document = strictjson.loads(text)
    except Exception as error:
        raise InvalidSchemaError(f"the schema is not JSON: {error}") from None
    if len(text) > MAX_SCHEMA:
        raise InvalidSchemaError(
            f"the schema has {len(text):,} characters, at most {MAX_SCHEMA:,} are allowed"
        )
    Validator(document)  # raises if it cannot be used
    return document, text


def _canonical(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True)


def _version(stored: StoredSchema) -> SchemaVersion:
    date = stored.metadata.get("deprecation_date")
    return SchemaVersion(
        stored.version,
        json.loads(stored.text),
        SchemaFormat(stored.format),
        stored.created_at,
        bool(stored.metadata.get("deprecated")),
        datetime.fromisoformat(date) if isinstance(date, str) else None,
        dict(stored.metadata),
        stored.schema_id,
    )
