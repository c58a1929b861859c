"""The kits, applied to the mutant that the variable MUTANT names. Run by run.py, not directly."""

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
from dimesh_contracts.bus import BusBackendContract, Factory, Hands, NewBackend
from dimesh_contracts.cdc import CDCSourceContract, NewSource
from dimesh_contracts.lineage import LineageSinkContract, NewSink
from dimesh_contracts.registry import NewStore, RegistryStoreContract
from dimesh_contracts.schema import Examples, SchemaLanguageContract

# Shrinking is for human readers; a mutant only needs to be found.
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
        lease = LEASE
        patience = PATIENCE
        oversized = getattr(MUTANT.make, "oversized", None)

        @pytest.fixture
        async def distant(self, tmp_path: Path) -> Any:
            return MUTANT.make(tmp_path)

        @pytest.fixture
        async def hands(self, distant: Any) -> Hands:
            return getattr(distant, "line", None) or Hands()

        @pytest.fixture
        def new_distant_backend(self, distant: Any) -> NewBackend:
            return lambda: distant

        @pytest.fixture
        def new_backend(self, tmp_path: Path) -> NewBackend:
            return lambda: MUTANT.make(tmp_path)

        @pytest.fixture
        def driver(self, tmp_path: Path) -> tuple[str, Mapping[str, Any]]:
            return "sqlite", {"path": str(tmp_path / "mesh.db")}

        @pytest.fixture
        def factory(self, tmp_path: Path) -> Factory:
            return "catalogue:make", {"name": NAME, "folder": str(tmp_path)}


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


elif KIND == "schema":

    class TestMutant(SchemaLanguageContract):  # type: ignore[no-redef]
        patience = PATIENCE

        @pytest.fixture
        def language(self, tmp_path: Path) -> Any:
            return MUTANT.make(tmp_path)

        @pytest.fixture
        def examples(self) -> Examples:
            from avro_examples import EXAMPLES

            return EXAMPLES


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
