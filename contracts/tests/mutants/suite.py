"""The kits, subscribed by the one mutant that the variable MUTANT names. Run by run.py, not by itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

sys.path.insert(0, str(Path(__file__).parent))

from catalogue import catalogue
from cdc import Application
from queue_backend import LEASE

from dimesh.capabilities import Capability
from dimesh_contracts.bus import BusBackendContract, NewBackend
from dimesh_contracts.cdc import CDCSourceContract, NewSource
from dimesh_contracts.lineage import LineageSinkContract, NewSink
from dimesh_contracts.registry import NewStore, RegistryStoreContract

# The shortest example is for people to read; a mutant needs only to be found.
settings.register_profile("mutants", phases=(Phase.generate,))
settings.load_profile("mutants")

NAME = os.environ["MUTANT"]
KIND = NAME.split(".")[0]
MUTANT = catalogue()[NAME]
PATIENCE = 1.5


def stated(folder: Path) -> frozenset[Capability]:
    capabilities = MUTANT.make(folder).capabilities
    return frozenset(c for c in capabilities if c in capabilities)


if KIND == "bus":

    class TestMutant(BusBackendContract):
        offers = stated(Path("/nonexistent"))
        patience = PATIENCE

        @pytest.fixture
        def new_backend(self, tmp_path: Path) -> NewBackend:
            return lambda: MUTANT.make(tmp_path)

        @pytest.fixture
        def driver(self, tmp_path: Path) -> tuple[str, Mapping[str, Any]]:
            return "sqlite", {"path": str(tmp_path / "mesh.db")}


elif KIND == "queues":

    class TestMutant(BusBackendContract):  # type: ignore[no-redef]
        offers = stated(Path("/nonexistent"))
        family = "queue"
        lease = LEASE
        patience = PATIENCE

        @pytest.fixture
        def new_backend(self, tmp_path: Path) -> NewBackend:
            return lambda: MUTANT.make(tmp_path)


elif KIND == "registry":

    class TestMutant(RegistryStoreContract):  # type: ignore[no-redef]
        offers = stated(Path("/nonexistent"))
        patience = PATIENCE

        @pytest.fixture
        def new_store(self, tmp_path: Path) -> NewStore:
            return lambda: MUTANT.make(tmp_path)


elif KIND == "cdc":

    class TestMutant(CDCSourceContract):  # type: ignore[no-redef]
        offers = stated(Path("/nonexistent"))
        patience = PATIENCE

        @pytest.fixture
        def system(self, tmp_path: Path) -> Iterator[Application]:
            application = Application(tmp_path)
            yield application
            application.close()

        @pytest.fixture
        def new_source(self, tmp_path: Path, system: Application) -> NewSource:
            return lambda: MUTANT.make(tmp_path)


else:

    class TestMutant(LineageSinkContract):  # type: ignore[no-redef]
        offers = stated(Path("/nonexistent"))
        patience = PATIENCE

        @pytest.fixture
        def new_sink(self, tmp_path: Path) -> NewSink:
            return lambda: MUTANT.make(tmp_path)
