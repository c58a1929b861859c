"""The schema registry: languages, compatibility and versions over any store."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from dimesh.errors import (
    IncompatibleSchemaError,
    SchemaError,
    SubjectNotFoundError,
    VersionConflictError,
)
from dimesh.events.names import show
from dimesh.registry.decision import decide, versions_to_compare
from dimesh.registry.model import (
    Comparison,
    CompatibilityMode,
    CompatibilityResult,
    Problem,
    SchemaFormat,
    SchemaSubject,
    SchemaVersion,
)
from dimesh.registry.parsing import SchemaParser
from dimesh.registry.registered import RegisteredSchema
from dimesh.registry.rules import (
    UNDECIDED_WHAT,
    OnUndecided,
    SubjectMode,
    SubjectSettings,
    policy_of,
    value_of,
)
from dimesh.spi.registry import (
    COMPATIBILITY,
    DEFAULT_CONTEXT,
    MODE,
    POLICY,
    DecidingStore,
    Reference,
    RegistryStore,
    SchemaContent,
    StoredSchema,
)
from dimesh.spi.schema import ParsedSchema, SchemaLanguage, Verdict

MAX_SUBJECT: Final = 1_024
MAX_REGISTERED: Final = 1_000
"""The number of versions that are kept, parsed, in memory."""
MAX_ROUNDS: Final = 100
"""The number of times that a registration is decided again because another writer was faster."""


class SchemaRegistry:
    """A registry over a store. It opens at first use.

    Args:
        store: the store of the versions.
        policy: the meaning of "compatible" for subjects without a policy of their own; see :data:`dimesh.spi.schema.POLICIES`.
        undecided: ``block`` or ``allow``: what happens to a comparison that cannot be decided, for subjects without a setting of
            their own.
        languages: returns a schema language by its name, such as ``AVRO``; None: the installed plugins. JSON Schema needs none.
        on_registered: called with each new version.

    Raises:
        ConfigurationError: there is no such policy or treatment.
    """

    def __init__(
        self,
        store: RegistryStore,
        *,
        policy: str = "tolerant",
        undecided: OnUndecided | str = OnUndecided.BLOCK,
        languages: Callable[[str], SchemaLanguage] | None = None,
        on_registered: Callable[[StoredSchema], None] | None = None,
    ) -> None:
        self.store = store
        self.policy = policy_of(policy)
        self.undecided = value_of(OnUndecided, undecided, UNDECIDED_WHAT)
        self.parser = SchemaParser(store, languages)
        self._on_registered = on_registered
        self._registered: OrderedDict[tuple[str, int], RegisteredSchema] = OrderedDict()
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

    async def _ready(self) -> None:
        if not self._open:
            await self.open()

    async def _prepare(self) -> None:
        """Register the initial schemas, in registries that have some."""

    async def close(self) -> None:
        """Close the store. May be called twice."""
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
        schema: Any,
        format: SchemaFormat | str = SchemaFormat.JSON_SCHEMA,
        *,
        references: Sequence[Reference] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a version and return its number; like :meth:`register`."""
        return (
            await self.register(subject, schema, format, references=references, metadata=metadata)
        ).version

    async def register(
        self,
        subject: str,
        schema: Any,
        format: SchemaFormat | str = SchemaFormat.JSON_SCHEMA,
        *,
        references: Sequence[Reference] = (),
        metadata: Mapping[str, Any] | None = None,
        rule_set: Mapping[str, Any] | None = None,
        version: int | None = None,
        schema_id: int | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> StoredSchema:
        """Add a version. A schema that the subject already has keeps its version.

        Args:
            subject: the subject.
            schema: the text of the schema, or the JSON values of a language that is written in JSON.
            format: the language.
            references: the registered schemas that the schema refers to.
            metadata: what the author states about the schema; it belongs to the identity of the schema.
            rule_set: rules in the shape of Confluent's API; kept, and part of the identity.
            version: the number of the version: the next one, for a writer that wants to know that there is no newer one; any
                other one in import mode.
            schema_id: the id of the schema, in import mode.
            notes: what this registry keeps about the version beside its identity.

        Raises:
            InvalidSchemaError: the schema is not valid in this registry.
            IncompatibleSchemaError: the schema violates the subject's compatibility mode; see ``reasons``.
            NotPermittedError: the mode of the subject forbids it.
            SchemaIdConflictError: the given id belongs to another schema.
            VersionConflictError: the given version exists with another schema.
        """
        await self._ready()
        _check_subject(subject)
        content, parsed = await self.parser.content(
            subject, schema, _name(format), references, metadata, rule_set
        )
        if isinstance(self.store, DecidingStore):
            return await self._pass_on(self.store, subject, content, version, schema_id, notes)
        for _ in range(MAX_ROUNDS):
            snapshot = await self.store.snapshot(subject)
            same = await self.store.find(subject, content)
            if same is not None and version in (None, same.version) and schema_id in (None, same.schema_id):
                return same
            settings = SubjectSettings.of(snapshot.settings, self.policy, self.undecided)
            following = snapshot.highest + 1
            # Without import mode, a number can only state which version the writer has seen last.
            given = schema_id is not None or version not in (None, following)
            if schema_id is None and given and settings.mode is SubjectMode.READWRITE:
                raise VersionConflictError(
                    f"the next version of subject {show(subject)} is {following}, not {version}: read the subject again"
                )
            settings.permit(subject, given=given)
            if settings.mode is not SubjectMode.IMPORT:
                result = await self._decide(subject, parsed, snapshot.live, settings)
                if not result:
                    raise _incompatible(subject, result)
            try:
                stored = await self.store.append(
                    subject,
                    content,
                    revision=snapshot.revision,
                    version=version,
                    schema_id=schema_id,
                    notes=notes,
                )
            except VersionConflictError:
                if version is not None and version in await self.store.numbers(subject, deleted=True):
                    raise
                continue  # another writer was faster: decide again with its version
            if self._on_registered is not None:
                self._on_registered(stored)
            return stored
        raise VersionConflictError(
            f"other writers keep adding versions to subject {show(subject)}: try again"
        )

    async def _pass_on(
        self,
        store: DecidingStore,
        subject: str,
        content: SchemaContent,
        version: int | None,
        schema_id: int | None,
        notes: Mapping[str, Any] | None,
    ) -> StoredSchema:
        """Let the store decide."""
        # The answer to a registration does not say whether the version is new.
        known = None if self._on_registered is None else await self.store.find(subject, content)
        stored = await store.register(subject, content, version=version, schema_id=schema_id)
        if notes:
            stored = await self.store.set_notes(subject, stored.version, notes)
        if self._on_registered is not None and (known is None or known.version != stored.version):
            self._on_registered(stored)
        return stored

    async def check_compatibility(
        self,
        subject: str,
        new_schema: Any,
        format: SchemaFormat | str = SchemaFormat.JSON_SCHEMA,
    ) -> bool:
        """Return whether the schema could be registered now; :meth:`compatibility` gives the reasons if not."""
        return (await self.compatibility(subject, new_schema, format)).compatible

    async def compatibility(
        self,
        subject: str,
        new_schema: Any,
        format: SchemaFormat | str = SchemaFormat.JSON_SCHEMA,
        *,
        references: Sequence[Reference] = (),
        version: int | None = None,
    ) -> CompatibilityResult:
        """Return whether the schema could be registered now, with the reasons if not.

        Args:
            subject: the subject.
            new_schema: the schema, as for :meth:`register`.
            format: the language.
            references: the registered schemas that the schema refers to.
            version: compare with this version only; None: with those that the compatibility mode asks for.

        Raises:
            InvalidSchemaError: the schema is not valid in this registry.
            SubjectNotFoundError: ``version`` is given, and there is no such version.
        """
        await self._ready()
        _check_subject(subject)
        content, parsed = await self.parser.content(subject, new_schema, _name(format), references)
        if isinstance(self.store, DecidingStore):
            return _result(await self.store.check(subject, content, version), version or 0)
        snapshot = await self.store.snapshot(subject)
        settings = SubjectSettings.of(snapshot.settings, self.policy, self.undecided)
        if version is None:
            return await self._decide(subject, parsed, snapshot.live, settings)
        old = await self.parser.parse((await self._stored(subject, version)).content)
        return await decide(self.parser.language(parsed.language), parsed, [(version, old)], settings)

    async def _decide(
        self, subject: str, new: ParsedSchema, live: Sequence[int], settings: SubjectSettings
    ) -> CompatibilityResult:
        old: list[tuple[int, ParsedSchema]] = []
        for number in versions_to_compare(settings.compatibility, live):
            stored = await self.store.get(subject, number, deleted=True)
            # The default schemas of a local registry are suggestions, which nobody relies on.
            if stored is not None and not stored.notes.get("default"):
                old.append((number, await self.parser.parse(stored.content)))
        if not old:
            return CompatibilityResult(True)
        return await decide(self.parser.language(new.language), new, old, settings)

    # -- settings --------------------------------------------------------------------------------

    async def settings(self, subject: str | None = None) -> SubjectSettings:
        """Return the settings that apply to a subject: its own, else those of its context, else the global ones, else the
        defaults.

        Raises:
            ConfigurationError: a stored value is unknown.
        """
        await self._ready()
        if subject is None:
            return SubjectSettings.of(await self.store.get_settings(None), self.policy, self.undecided)
        _check_subject(subject)
        return SubjectSettings.of((await self.store.snapshot(subject)).settings, self.policy, self.undecided)

    async def get_compatibility(self, subject: str | None = None) -> CompatibilityMode:
        """Return the mode of a subject: its own, else that of its context, else the global one, else BACKWARD."""
        return (await self.settings(subject)).compatibility

    async def set_compatibility(
        self, subject: str | None, mode: CompatibilityMode | str, *, policy: str | None = None
    ) -> None:
        """Set the mode of a subject; None: the global mode, for subjects without a mode of their own.

        Args:
            subject: the subject, ``:.context:`` for a context, or None.
            mode: the mode.
            policy: the meaning of "compatible"; None: as it is.

        Raises:
            ConfigurationError: there is no such mode or policy.
        """
        value = value_of(CompatibilityMode, mode, "compatibility mode").value
        await self._change(subject, {COMPATIBILITY: value, **({POLICY: policy_of(policy)} if policy else {})})

    async def set_mode(self, subject: str | None, mode: SubjectMode | str) -> None:
        """Set what may be written to a subject; None: to subjects without a mode of their own.

        Raises:
            ConfigurationError: there is no such mode.
        """
        await self._change(subject, {MODE: value_of(SubjectMode, mode, "mode of a subject").value})

    async def _change(self, subject: str | None, settings: Mapping[str, Any]) -> None:
        await self._ready()
        if subject is not None:
            _check_subject(subject)
        await self.store.set_settings(subject, {**await self.store.get_settings(subject), **settings})

    # -- reading ---------------------------------------------------------------------------------

    async def get_schema(self, subject: str, version: int | None = None) -> SchemaVersion:
        """Return a version; None: the latest one.

        Raises:
            SubjectNotFoundError: there is no such subject or version.
        """
        return await self._version(await self._stored(subject, version))

    async def _version(self, stored: StoredSchema) -> SchemaVersion:
        date = stored.notes.get("deprecation_date")
        return SchemaVersion(
            stored.version,
            (await self.parser.parse(stored.content)).document,
            _format(stored.format),
            stored.created_at,
            bool(stored.notes.get("deprecated")),
            datetime.fromisoformat(date) if isinstance(date, str) else None,
            dict(stored.content.metadata),
            stored.schema_id,
            stored.guid,
            stored.content.references,
            stored.text,
        )

    async def _stored(self, subject: str, version: int | None, deleted: bool = False) -> StoredSchema:
        await self._ready()
        stored = await self.store.get(subject, version, deleted=deleted) if _is_subject(subject) else None
        if stored is not None:
            return stored
        have = await self.store.numbers(subject) if _is_subject(subject) else ()
        if not have:
            raise SubjectNotFoundError(f"there is no subject {show(subject)}: register a schema for it first")
        shown = ", ".join(map(str, have[-20:]))
        raise SubjectNotFoundError(
            f"subject {show(subject)} has no version {version}; its versions are: {shown}"
        )

    async def get_subject(self, subject: str) -> SchemaSubject:
        """Return a subject with all its versions.

        Raises:
            SubjectNotFoundError: there is no such subject.
        """
        latest = await self._stored(subject, None)
        versions: dict[int, SchemaVersion] = {}
        for number in await self.store.numbers(subject):
            stored = await self.store.get(subject, number)
            if stored is not None:
                versions[number] = await self._version(stored)
        mode = await self.get_compatibility(subject)
        return SchemaSubject(subject, versions, latest.version, mode, dict(latest.content.metadata))

    async def list_subjects(self) -> list[str]:
        """Return the names of all subjects that have a version."""
        await self._ready()
        return list(await self.store.subjects())

    async def delete_subject(self, subject: str, *, permanent: bool = False) -> bool:
        """Delete a subject: its versions are no longer listed, and their numbers are not used again.

        Args:
            subject: the subject.
            permanent: erase what was deleted before.

        Returns:
            Whether anything was deleted.

        Raises:
            NotSoftDeletedError: ``permanent``, and the subject was not deleted before.
            ReferencedError: another schema refers to one of the versions.
            NotPermittedError: the subject is read-only.
        """
        try:
            return bool(await self.delete_versions(subject, permanent=permanent))
        except SubjectNotFoundError:
            return False

    async def delete_versions(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        """Delete one version of a subject or all, and return their numbers.

        Args:
            subject: the subject.
            version: the version; None: all.
            permanent: erase what was deleted before.

        Raises:
            SubjectNotFoundError: there is no such subject or version; SoftDeletedError: it is deleted already.
            NotSoftDeletedError: ``permanent``, and it was not deleted before.
            ReferencedError: another schema refers to one of the versions.
            NotPermittedError: the subject is read-only.
        """
        await self._ready()
        if not _is_subject(subject):
            raise SubjectNotFoundError(f"there is no subject {show(subject)}")
        (await self.settings(subject)).permit(subject, given=False)
        deleted = await self.store.delete(subject, version, permanent=permanent)
        for number in deleted:
            self._registered.pop((subject, number), None)
        return deleted

    async def deprecate(
        self, subject: str, version: int | None = None, *, when: datetime | None = None
    ) -> None:
        """Mark a version as deprecated.

        Args:
            subject: the subject.
            version: the version; None: the latest one.
            when: the date of the deprecation; None: now.

        Raises:
            SubjectNotFoundError: there is no such version.
        """
        stored = await self._stored(subject, version)
        moment = when or datetime.now(UTC)
        notes = {**stored.notes, "deprecated": True, "deprecation_date": moment.isoformat()}
        await self.store.set_notes(subject, stored.version, notes)

    # -- validating ------------------------------------------------------------------------------

    async def registered(
        self, subject: str, version: int | None = None, *, deleted: bool = False
    ) -> RegisteredSchema:
        """Return a version, parsed and ready to validate, encode and decode; None: the latest one. ``deleted``: a soft-deleted
        one, too, as a reader of older data needs it.

        A version that was asked for by its number is kept: it never changes, and it stays readable here after another process has
        deleted it.

        Raises:
            SubjectNotFoundError: there is no such subject or version.
        """
        if version is not None:
            known = self._registered.get((subject, version))
            if known is not None:
                self._registered.move_to_end((subject, version))
                return known
        stored = await self._stored(subject, version, deleted)
        if stored.deleted:
            return RegisteredSchema(stored, await self.parser.parse(stored.content))
        key = (subject, stored.version)
        known = self._registered.get(key)
        if known is None:
            known = RegisteredSchema(stored, await self.parser.parse(stored.content))
            self._registered[key] = known
            while len(self._registered) > MAX_REGISTERED:
                self._registered.popitem(last=False)
        return known

    async def by_id(self, schema_id: int, context: str = DEFAULT_CONTEXT) -> RegisteredSchema:
        """Return some version with the schema of an id, soft-deleted ones included.

        Raises:
            SubjectNotFoundError: there is no such id.
        """
        await self._ready()
        stored = await self.store.by_id(schema_id, context)
        if stored is None:
            raise SubjectNotFoundError(f"there is no schema with id {schema_id} in context {show(context)}")
        return RegisteredSchema(stored, await self.parser.parse(stored.content))

    async def validate(self, subject: str, data: Any, version: int | None = None) -> bool:
        """Return whether ``data`` satisfies the schema; :meth:`explain` gives the reasons if not.

        Raises:
            SubjectNotFoundError: there is no such subject or version.
        """
        known = self._registered.get((subject, version)) if version is not None else None
        if known is None:
            known = await self.registered(subject, version)
        return known.schema.is_valid(data)

    async def explain(self, subject: str, data: Any, version: int | None = None) -> list[Problem]:
        """Return the locations at which ``data`` does not satisfy the schema, with the reasons; empty if it does.

        Raises:
            SubjectNotFoundError: there is no such subject or version.
        """
        return list((await self.registered(subject, version)).schema.problems(data))


def _name(format: SchemaFormat | str) -> str:
    return format.value if isinstance(format, SchemaFormat) else format


def _format(name: str) -> SchemaFormat | str:
    try:
        return SchemaFormat(name)
    except ValueError:
        return name


def _incompatible(subject: str, result: CompatibilityResult) -> IncompatibleSchemaError:
    shown = "; ".join(map(_short, result.reasons[:5]))
    return IncompatibleSchemaError(
        f"the schema is not compatible with subject {show(subject)}: {shown}", result.reasons
    )


def _result(verdict: Verdict, version: int) -> CompatibilityResult:
    reasons = tuple(map(str, verdict.differences))
    return CompatibilityResult(bool(verdict), reasons, (Comparison(version, True, verdict),))


def _is_subject(subject: str) -> bool:
    # A store cannot even look up a string with a lone surrogate.
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
            f"{show(subject)} is not a subject name: use 1 to {MAX_SUBJECT:,} printable characters, such as "
            "'event.lead.generated'"
        )
