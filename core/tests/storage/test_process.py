from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dimesh.storage.process import ProcessId, shared_time, this_process
from dimesh_contracts.waiting import until

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems have no namespaces of process ids"
)
IDENTITY = "import json; from dimesh.storage.process import *; print(json.dumps([*this_process(), shared_time()]), flush=True); "


@pytest.fixture
def ended() -> ProcessId:
    """Return a process that has ended."""
    return _identity(subprocess.run([sys.executable, "-c", IDENTITY], capture_output=True, check=True).stdout)


def _identity(line: bytes) -> ProcessId:
    *found, at = json.loads(line)
    assert abs(shared_time() - at) < 60
    return ProcessId(*found)


def test_a_process_that_runs_has_not_ended() -> None:
    assert not this_process().has_ended()
    with subprocess.Popen(
        [sys.executable, "-c", IDENTITY + "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        other = _identity(child.stdout.readline())
        assert not other.has_ended()
        assert other._replace(started="1").has_ended(), "a later process with the same id is another one"
        child.kill()


def test_a_process_that_was_killed_has_ended(ended: ProcessId) -> None:
    assert ended.has_ended()
    assert ended._replace(started="").has_ended()


async def test_a_zombie_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", IDENTITY], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        other = _identity(child.stdout.readline())
        await until(other.has_ended)  # although nobody has waited for it


@pytest.mark.parametrize("namespace", ["", "pid:[1] time:[1]"])
def test_an_id_of_another_namespace_proves_nothing(ended: ProcessId, namespace: str) -> None:
    assert not ended._replace(namespace=namespace).has_ended()


def test_another_boot_has_ended_all_its_processes() -> None:
    assert this_process()._replace(boot="another", namespace="another").has_ended()
