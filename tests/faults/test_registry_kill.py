"""Processes that register schemas are killed at random moments: what was acknowledged is there, nothing is half written."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest
import registering
from forked import Forked

from dimesh import LocalSchemaRegistry
from dimesh.backends.registry.tables import FORMAT
from dimesh.storage.sqlitefile import open_file
from dimesh_contracts.waiting import be_patient, until


def acknowledged(folder: Path) -> list[tuple[str, int, int, str]]:
    found = []
    for path in folder.glob("*.acknowledged"):
        for line in path.read_text("utf-8").splitlines():
            subject, version, schema_id, guid = line.split("\t")
            found.append((subject, int(version), int(schema_id), guid))
    return found


@pytest.mark.slow
async def test_killed_while_registering(tmp_path: Path) -> None:
    be_patient(60.0)
    rng = random.Random(7)
    for _ in range(12):
        before = len(acknowledged(tmp_path))
        processes = [Forked(registering.run, str(tmp_path), name) for name in ("one", "two")]
        await until(lambda before=before: len(acknowledged(tmp_path)) > before + 2)
        await asyncio.sleep(rng.uniform(0.0, 0.1))  # the random moment is the subject of the test
        for process in processes:
            process.kill()
            assert await process.wait() == -signal.SIGKILL
        connection = open_file(tmp_path / "registry.db", FORMAT)
        for check in FORMAT.checks:
            check(connection, tmp_path / "registry.db")
        connection.close()
        async with LocalSchemaRegistry(tmp_path / "registry.db", defaults=False) as registry:
            identities: dict[int, str] = {}
            for subject in await registry.list_subjects():
                numbers = list(await registry.store.numbers(subject))
                assert numbers == list(range(1, len(numbers) + 1)), "versions have no holes"
                for number in numbers:
                    stored = await registry.store.get(subject, number)
                    assert stored is not None
                    assert identities.setdefault(stored.schema_id, stored.guid) == stored.guid
                    await registry.parser.parse(stored.content)  # what it refers to is there, too
            assert len(set(identities.values())) == len(identities), "equal content has one id"
            for subject, version, schema_id, guid in acknowledged(tmp_path):
                stored = await registry.store.get(subject, version)
                assert stored is not None, f"{subject} {version} was acknowledged and is lost"
                assert (stored.schema_id, stored.guid) == (schema_id, guid)
    assert len(acknowledged(tmp_path)) >= 36, "every process got on before it was killed"
