"""The contract of stores, with a server that others wrote: franz-go's srfake. What it does differently from Confluent's server,
whose behaviour the contract asks for, is listed with the reason; a difference that goes away fails here.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh.errors import DimeshError
from dimesh_confluent.options import ConfluentOptions
from dimesh_confluent.store import ConfluentStore
from dimesh_contracts.registry import RegistryStoreContract
from servers import processes
from servers.availability import unavailable
from servers.processes import ServerUnavailable, cache_folder, made_once, needs

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]
HERE: Final = Path(__file__).parent / "srfake"
SOURCES: Final = ("main.go", "go.mod", "go.sum")
_MODE: Final = "a subject without settings of its own has the global ones as its own"
_CONFIG: Final = "a configuration has the compatibility level only"
_NUMBER: Final = "a registration cannot state its version or id"
DIFFERS: Final[dict[str, str]] = {
    "test_a_schema_comes_back_as_it_was": "it completes the rules of a rule set",
    "test_a_stale_writer_is_told": _CONFIG,
    "test_a_number_is_never_used_again": "nothing can be registered in a soft-deleted subject",
    "test_writers_at_the_same_time": f"{_NUMBER}, so the second of two writers is not refused",
    "test_an_id_stands_for_one_content": "metadata and rules do not belong to the identity",
    "test_a_snapshot_is_what_applies": _MODE,
    "test_versions_and_ids_are_given": _NUMBER,
    "test_what_is_referred_to_stays": "a delete of a subject names the versions that were deleted before, too",
    "test_soft_delete": "a soft-deleted version is a live user of its id",
    "test_contexts_have_their_own_ids": "all contexts share one sequence of ids",
    "test_a_delete_says_why_not": "a second delete, and an erasing one without a first, succeed",
    "test_settings": _MODE,
    "test_the_narrower_scope_has_precedence": _CONFIG,
    "test_settings_go_with_their_subject": _MODE,
}
"""By test of the contract."""
BY_CHANCE: Final = frozenset({"test_writers_at_the_same_time"})
"""Differences that show only if two requests cross."""


def built() -> Path:
    """Build the program if necessary.

    Raises:
        ServerUnavailable: Go is missing, or the module cannot be downloaded.
    """
    go = needs("go", "srfake is written in Go (1.24 or newer)")
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in SOURCES)).hexdigest()[:16]

    def make(fresh: Path) -> None:
        for name in SOURCES:
            shutil.copy(HERE / name, fresh)
        processes.run([go, "build", "-mod=mod", "-o", "srfake", "."], cwd=fresh)

    return made_once(cache_folder(f"srfake-{digest}"), make) / "srfake"


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return built()
    except ServerUnavailable as error:
        unavailable(error)


class Kit(RegistryStoreContract):
    """The contract, whose tests are called here one by one: some of them have to fail."""

    offers = frozenset({Capability.DECIDES_COMPATIBILITY, Capability.SOFT_DELETE, Capability.PERSISTENT})


@pytest.fixture
def address(program: Path) -> Iterator[str]:
    with subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


@pytest.mark.parametrize("name", [n for n in Kit.names() if set(getattr(Kit, n).needs) <= Kit.offers])
async def test_the_contract_except_for_what_is_known_to_differ(name: str, address: str) -> None:
    options = ConfluentOptions(url=address)

    def new_store() -> ConfluentStore:
        return ConfluentStore(options, SystemClock())

    store = new_store()
    await store.open()
    test = getattr(Kit(), name)
    given = {"store": store, "new_store": new_store}
    run = test(**{parameter: given[parameter] for parameter in inspect.signature(test).parameters})
    try:
        if name in BY_CHANCE:
            with contextlib.suppress(AssertionError, DimeshError, pytest.fail.Exception):
                await run
        elif name in DIFFERS:
            with pytest.raises((AssertionError, DimeshError, pytest.fail.Exception)):
                await run
        else:
            await run
    finally:
        await store.close()
