from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The workers are separate processes, in which their code must be importable by name.
sys.path.insert(0, str(Path(__file__).parent))

from observed import Observed


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    found = Observed(tmp_path)
    yield found
    found.close()
