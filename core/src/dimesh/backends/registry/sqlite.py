"""The schema store in one SQLite file, for the processes of one machine.

Writes are rare and small, so the file uses a rollback journal: there is no second file, and SQLite's own locks keep the
processes apart. Each row has a checksum (see :mod:`dimesh.storage.checksums`): a damaged schema is never returned.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from dimesh.backends.registry.rules import (
    Listed,
    check_not_referenced,
    next_version,
    snapshot_of,
    to_delete,
)
from dimesh.backends.registry.tables import (
    CONTENTS,
    FORMAT,
    GLOBAL,
    HIGHEST,
    IDENTITIES,
    LAST_IDS,
    REFERS,
    SETTINGS,
    VERSIONS,
)
from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.errors import (
    ConfigurationError,
    ReferenceNotFoundError,
    SchemaIdConflictError,
    StorageError,
    SubjectNotFoundError,
)
from dimesh.events.names import show
from dimesh.options import Options, is_path, parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.context import PluginContext
from dimesh.spi.registry import (
    DEFAULT_CONTEXT,
    Reference,
    RegistryStore,
    SchemaContent,
    Snapshot,
    StoredSchema,
    context_of,
    scopes_of,
)
from dimesh.storage.checksums import row_crc
from dimesh.storage.sqlitefile import SharedConnection, explain, open_file

T = TypeVar("T")

SELECT: Final = (
    "SELECT v.crc, v.subject, v.version, v.context, v.content, v.created, v.deleted, v.notes,"
    " c.crc, c.context, c.id, c.identity, c.format, c.text, c.canonical, c.refs, c.metadata, c.rules"
    " FROM versions v LEFT JOIN contents c ON c.context = v.context AND c.id = v.content"
)


class SqliteStoreOptions(Options, frozen=True):
    """Options of the sqlite store."""

    path: str = "mesh-data/registry.db"
    """The database file; it is created with its folder if it does not exist."""


class SqliteStore:
    """See :class:`dimesh.spi.registry.RegistryStore`."""

    name = "sqlite"
    capabilities = Capabilities(Capability.SOFT_DELETE, Capability.PERSISTENT, Capability.NOTES)

    def __init__(self, options: SqliteStoreOptions, clock: Clock) -> None:
        if not is_path(options.path):
            raise ConfigurationError("registry 'sqlite': path must name a file")
        self._path = Path(options.path).absolute()
        self._clock = clock
        self._file = SharedConnection(self._connect, lambda error: explain(error, self._path))
        self._open = False

    @property
    def path(self) -> str:
        """The file."""
        return str(self._path)

    def _connect(self) -> sqlite3.Connection:
        return open_file(self._path, FORMAT, ("synchronous=FULL",))

    async def open(self) -> None:
        """Open the file, or create it."""
        await self._file.open()
        self._open = True

    async def close(self) -> None:
        """Close the file."""
        self._open = False
        await self._file.close()

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        return await self._file.read(work)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        return await self._file.write(work)

    def _check_open(self) -> None:
        if not self._open:
            raise StorageError("the registry is closed")

    # -- writing ---------------------------------------------------------------------------------

    async def snapshot(self, subject: str) -> Snapshot:
        """Return the subject as it is now."""

        def work(connection: sqlite3.Connection) -> Snapshot:
            return self._snapshot(connection, subject, self._listed(connection, subject))

        return await self._read(work)

    def _snapshot(self, connection: sqlite3.Connection, subject: str, versions: Sequence[Listed]) -> Snapshot:
        settings = [self._settings(connection, scope) for scope in scopes_of(subject)]
        return snapshot_of(versions, self._highest(connection, subject), settings)

    def _listed(self, connection: sqlite3.Connection, subject: str) -> list[Listed]:
        """Return the numbers of all versions of a subject, without their texts."""
        rows = connection.execute(
            "SELECT crc, subject, version, context, content, created, deleted, notes FROM versions"
            " WHERE subject = ? ORDER BY version",
            (subject,),
        ).fetchall()
        for row in rows:
            VERSIONS.check(self._path, *row)
        if rows:
            VERSIONS.check_total(connection, self._path, [row[2] for row in rows], subject)
        else:
            VERSIONS.verify_once(connection, self._path)
        return [Listed(row[2], bool(row[6])) for row in rows]

    def _highest(self, connection: sqlite3.Connection, subject: str) -> int:
        row = connection.execute(
            "SELECT crc, name, highest FROM highest WHERE name = ?", (subject,)
        ).fetchone()
        if row is None:
            HIGHEST.verify_once(connection, self._path)
            return 0
        HIGHEST.check(self._path, *row)
        return int(row[2])

    async def append(
        self,
        subject: str,
        content: SchemaContent,
        *,
        revision: str,
        version: int | None = None,
        schema_id: int | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> StoredSchema:
        """Append a version to a subject."""
        created = float(self._clock.time())
        extra = json.dumps(dict(notes or {}))
        context = context_of(subject)

        def work(connection: sqlite3.Connection) -> StoredSchema:
            listed = self._listed(connection, subject)
            snapshot = self._snapshot(connection, subject, listed)
            number = next_version(subject, listed, snapshot, revision, version)
            for reference in content.references:
                if self._one(connection, reference.subject, reference.version, False) is None:
                    raise ReferenceNotFoundError(
                        f"the reference {show(reference.name)} leads to subject {show(reference.subject)}, version "
                        f"{reference.version}, which does not exist: register it first"
                    )
            id_ = self._id(connection, context, content, schema_id)
            row = (subject, number, context, id_, created, 0, extra)
            connection.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, row_crc(*row)))
            top = (subject, max(number, snapshot.highest))
            connection.execute(
                "INSERT INTO highest VALUES (?, ?, ?) ON CONFLICT (name)"
                " DO UPDATE SET highest = excluded.highest, crc = excluded.crc",
                (*top, row_crc(*top)),
            )
            stored = self._one(connection, subject, number, False)
            assert stored is not None
            return stored

        return await self._write(work)

    def _id(
        self, connection: sqlite3.Connection, context: str, content: SchemaContent, wanted: int | None
    ) -> int:
        """Return the id of a content, which gets one if it is new."""
        have = self._known_id(connection, context, content.identity)
        if have is not None and wanted in (None, have):
            return have
        last = self._last_id(connection, context)
        wanted = wanted or last + 1
        taken = connection.execute(
            "SELECT 1 FROM contents WHERE context = ? AND id = ?", (context, wanted)
        ).fetchone()
        if have is not None or taken:
            raise SchemaIdConflictError(
                f"id {wanted} cannot be given to the schema: "
                + (f"the schema has id {have}" if have else "the id belongs to another schema")
            )
        references = [(r.name, r.subject, r.version) for r in content.references]
        row = (
            context,
            wanted,
            content.identity,
            content.format,
            content.text,
            content.canonical,
            json.dumps(references),
            json.dumps(dict(content.metadata)),
            json.dumps(dict(content.rule_set)),
        )
        connection.execute(
            "INSERT INTO contents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, row_crc(*row))
        )
        key = (content.identity, context, wanted)
        connection.execute("INSERT INTO identities VALUES (?, ?, ?, ?)", (*key, row_crc(*key)))
        top = (context, max(wanted, last))
        connection.execute(
            "INSERT INTO last_ids VALUES (?, ?, ?) ON CONFLICT (context)"
            " DO UPDATE SET id = excluded.id, crc = excluded.crc",
            (*top, row_crc(*top)),
        )
        for name, subject, number in references:
            link = (context, wanted, name, subject, number)
            connection.execute("INSERT INTO refers VALUES (?, ?, ?, ?, ?, ?)", (*link, row_crc(*link)))
        return wanted

    def _last_id(self, connection: sqlite3.Connection, context: str) -> int:
        row = connection.execute(
            "SELECT crc, context, id FROM last_ids WHERE context = ?", (context,)
        ).fetchone()
        if row is None:
            LAST_IDS.verify_once(connection, self._path)
            return 0
        LAST_IDS.check(self._path, *row)
        return int(row[2])

    def _known_id(self, connection: sqlite3.Connection, context: str, identity: str) -> int | None:
        row = connection.execute(
            "SELECT crc, identity, context, id FROM identities WHERE identity = ? AND context = ?",
            (identity, context),
        ).fetchone()
        if row is None:
            IDENTITIES.verify_once(connection, self._path)
            return None
        IDENTITIES.check(self._path, *row)
        return int(row[3])

    async def delete(
        self, subject: str, version: int | None = None, *, permanent: bool = False
    ) -> Sequence[int]:
        """Mark versions as deleted, or remove versions that are marked; return their numbers."""

        def work(connection: sqlite3.Connection) -> Sequence[int]:
            listed = self._listed(connection, subject)
            touched = to_delete(subject, listed, version, permanent)
            check_not_referenced(subject, touched, self._referrers(connection, subject), permanent)
            key = [(subject, number) for number in touched]
            if permanent:
                connection.executemany("DELETE FROM versions WHERE subject = ? AND version = ?", key)
                if len(touched) == len(listed):
                    connection.execute("DELETE FROM settings WHERE scope = ?", (subject,))
            else:
                connection.executemany(
                    "UPDATE versions SET deleted = 1,"
                    " crc = row_crc(subject, version, context, content, created, 1, notes)"
                    " WHERE subject = ? AND version = ?",
                    key,
                )
            return touched

        return await self._write(work)

    def _referrers(self, connection: sqlite3.Connection, subject: str) -> list[tuple[str, int, int, bool]]:
        """Return the versions that refer to a subject, each with the version that it refers to, and whether it is deleted."""
        REFERS.verify_once(connection, self._path)
        VERSIONS.verify_once(connection, self._path)
        rows = connection.execute(
            "SELECT v.subject, v.version, r.version, v.deleted FROM refers r"
            " JOIN versions v ON v.context = r.context AND v.content = r.content"
            " WHERE r.subject = ? ORDER BY v.subject, v.version",
            (subject,),
        )
        return [(name, number, target, bool(deleted)) for name, number, target, deleted in rows]

    async def set_notes(self, subject: str, version: int, notes: Mapping[str, Any]) -> StoredSchema:
        """Replace the notes of a version."""
        text = json.dumps(dict(notes))

        def work(connection: sqlite3.Connection) -> StoredSchema:
            if self._one(connection, subject, version, True) is None:
                raise SubjectNotFoundError(f"subject {show(subject)} has no version {version}")
            connection.execute(
                "UPDATE versions SET notes = :text,"
                " crc = row_crc(subject, version, context, content, created, deleted, :text)"
                " WHERE subject = :subject AND version = :version",
                {"subject": subject, "version": version, "text": text},
            )
            changed = self._one(connection, subject, version, True)
            assert changed is not None
            return changed

        return await self._write(work)

    # -- reading ---------------------------------------------------------------------------------

    def _one(
        self, connection: sqlite3.Connection, subject: str, version: int, deleted: bool
    ) -> StoredSchema | None:
        row = connection.execute(
            f"{SELECT} WHERE v.subject = ? AND v.version = ?", (subject, version)
        ).fetchone()
        if row is None:
            VERSIONS.verify_once(connection, self._path)
            return None
        stored = self._checked(row)
        return stored if deleted or not stored.deleted else None

    def _checked(self, row: Sequence[Any]) -> StoredSchema:
        VERSIONS.check(self._path, *row[:8])
        _, subject, version, context, content, created, deleted, notes = row[:8]
        if row[10] is None:
            raise CONTENTS.damage(
                self._path, f"the row {context!r}, {content} of table 'contents' is missing"
            )
        CONTENTS.check(self._path, *row[8:])
        _, _, _, _, format_, text, canonical, references, metadata, rules = row[8:]
        found = SchemaContent(
            format_,
            text,
            canonical,
            tuple(Reference(*reference) for reference in json.loads(references)),
            json.loads(metadata),
            json.loads(rules),
        )
        return StoredSchema(
            subject,
            version,
            content,
            found,
            datetime.fromtimestamp(created, UTC),
            bool(deleted),
            json.loads(notes),
            found.guid,
        )

    async def get(
        self, subject: str, version: int | None = None, *, deleted: bool = False
    ) -> StoredSchema | None:
        """Return one version, or the latest one."""

        def work(connection: sqlite3.Connection) -> StoredSchema | None:
            number = version
            if number is None:
                listed = self._listed(connection, subject)
                number = next((v.version for v in reversed(listed) if deleted or not v.deleted), None)
            return None if number is None else self._one(connection, subject, number, deleted)

        return await self._read(work)

    async def numbers(
        self, subject: str, *, deleted: bool = False, offset: int = 0, limit: int | None = None
    ) -> Sequence[int]:
        """Return the version numbers of a subject."""
        listed = await self._read(lambda connection: self._listed(connection, subject))
        found = [v.version for v in listed if deleted or not v.deleted]
        return found[offset:] if limit is None else found[offset : offset + limit]

    async def find(
        self, subject: str, content: SchemaContent, *, deleted: bool = False
    ) -> StoredSchema | None:
        """Return the newest version with a content."""

        def work(connection: sqlite3.Connection) -> StoredSchema | None:
            id_ = self._known_id(connection, context_of(subject), content.identity)
            if id_ is None:
                return None
            row = connection.execute(
                f"{SELECT} WHERE v.subject = ? AND v.content = ? AND (? OR NOT v.deleted)"
                " ORDER BY v.version DESC LIMIT 1",
                (subject, id_, deleted),
            ).fetchone()
            if row is not None:
                return self._checked(row)
            VERSIONS.verify_once(connection, self._path)
            return None

        return await self._read(work)

    async def by_id(self, schema_id: int, context: str = DEFAULT_CONTEXT) -> StoredSchema | None:
        """Return some version with the content of this id."""
        return await self._first("v.context = ? AND v.content = ?", context, schema_id)

    async def by_guid(self, guid: str) -> StoredSchema | None:
        """Return some version with the content of this globally unique id."""
        identity = guid.replace("-", "").lower()
        return await self._first(
            "(v.context, v.content) IN (SELECT context, id FROM identities WHERE identity = ?)", identity
        )

    async def _first(self, where: str, *values: Any) -> StoredSchema | None:
        def work(connection: sqlite3.Connection) -> StoredSchema | None:
            row = connection.execute(
                f"{SELECT} WHERE {where} ORDER BY v.deleted, v.subject, v.version LIMIT 1", values
            ).fetchone()
            if row is not None:
                return self._checked(row)
            VERSIONS.verify_once(connection, self._path)
            IDENTITIES.verify_once(connection, self._path)
            return None

        return await self._read(work)

    async def last_id(self, context: str = DEFAULT_CONTEXT) -> int:
        """Return the highest id that was ever given in a context."""
        return await self._read(lambda connection: self._last_id(connection, context))

    async def ids_of(self, guid: str) -> Sequence[tuple[str, int]]:
        """Return the ids of a content by context."""
        identity = guid.replace("-", "").lower()

        def work(connection: sqlite3.Connection) -> list[tuple[str, int]]:
            IDENTITIES.verify_once(connection, self._path)
            VERSIONS.verify_once(connection, self._path)
            return connection.execute(
                "SELECT i.context, i.id FROM identities i WHERE i.identity = ? AND EXISTS"
                " (SELECT 1 FROM versions v WHERE v.context = i.context AND v.content = i.id) ORDER BY i.context",
                (identity,),
            ).fetchall()

        return await self._read(work)

    async def users(
        self, schema_id: int, context: str = DEFAULT_CONTEXT, *, deleted: bool = False
    ) -> Sequence[tuple[str, int]]:
        """Return the subjects and versions with the content of this id."""

        def work(connection: sqlite3.Connection) -> list[tuple[str, int]]:
            VERSIONS.verify_once(connection, self._path)
            return connection.execute(
                "SELECT subject, version FROM versions WHERE context = ? AND content = ? AND (? OR NOT deleted)"
                " ORDER BY subject, version",
                (context, schema_id, deleted),
            ).fetchall()

        return await self._read(work)

    async def referenced_by(self, subject: str, version: int) -> Sequence[StoredSchema]:
        """Return the versions that refer to a version."""

        def work(connection: sqlite3.Connection) -> list[StoredSchema]:
            found = []
            for name, number, target, _ in self._referrers(connection, subject):
                stored = self._one(connection, name, number, True) if target == version else None
                if stored is not None:
                    found.append(stored)
            return found

        return await self._read(work)

    async def subjects(
        self, prefix: str = "", *, deleted: bool = False, offset: int = 0, limit: int | None = None
    ) -> Sequence[str]:
        """Return the sorted names of the subjects."""

        def work(connection: sqlite3.Connection) -> list[str]:
            VERSIONS.verify_once(connection, self._path)
            rows = connection.execute(
                "SELECT DISTINCT subject FROM versions WHERE (? OR NOT deleted) AND substr(subject, 1, ?) = ?"
                " ORDER BY subject LIMIT ? OFFSET ?",
                (deleted, len(prefix), prefix, -1 if limit is None else limit, offset),
            )
            return [name for (name,) in rows]

        return await self._read(work)

    async def contexts(self) -> Sequence[str]:
        """Return the sorted names of the contexts."""

        def work(connection: sqlite3.Connection) -> list[str]:
            VERSIONS.verify_once(connection, self._path)
            rows = connection.execute("SELECT DISTINCT context FROM versions").fetchall()
            return sorted({DEFAULT_CONTEXT, *(name for (name,) in rows)})

        return await self._read(work)

    # -- settings --------------------------------------------------------------------------------

    async def get_settings(self, scope: str | None) -> Mapping[str, Any]:
        """Return the settings of a scope."""
        return await self._read(lambda connection: self._settings(connection, scope))

    def _settings(self, connection: sqlite3.Connection, scope: str | None) -> dict[str, Any]:
        row = connection.execute(
            "SELECT crc, scope, value FROM settings WHERE scope = ?", (scope or GLOBAL,)
        ).fetchone()
        if row is None:
            SETTINGS.verify_once(connection, self._path)
            return {}
        SETTINGS.check(self._path, *row)
        return dict(json.loads(row[2]))

    async def set_settings(self, scope: str | None, settings: Mapping[str, Any]) -> None:
        """Replace the settings of a scope."""
        key, value = scope or GLOBAL, json.dumps(dict(settings))

        def work(connection: sqlite3.Connection) -> None:
            if settings:
                connection.execute(
                    "INSERT INTO settings VALUES (?, ?, ?) ON CONFLICT (scope)"
                    " DO UPDATE SET value = excluded.value, crc = excluded.crc",
                    (key, value, row_crc(key, value)),
                )
            else:
                connection.execute("DELETE FROM settings WHERE scope = ?", (key,))

        await self._write(work)


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_registry_store(self, options: Mapping[str, Any], context: PluginContext) -> RegistryStore:
        return SqliteStore(parse_options(SqliteStoreOptions, options, "registry 'sqlite'"), context.clock)


plugin = _Plugin()
