"""Every sentence of the delivery guarantees names a test, and every named test exists."""

from __future__ import annotations

import re
from pathlib import Path

from dimesh_contracts.broker import BrokerContract
from dimesh_contracts.bus import BusBackendContract

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "concepts" / "delivery-guarantees.md").read_text("utf-8")


def defined(folder: str) -> set[str]:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / folder).glob("test_*.py"))
    return set(re.findall(r"def (test_\w+)", sources))


def test_every_sentence_names_tests_that_exist() -> None:
    known = {
        "kit": set(BusBackendContract.names()),
        "broker": set(BrokerContract.names()),
        "bus": defined("core/tests/bus"),
        "faults": defined("tests/faults"),
        "kafka": defined("plugins/kafka/tests"),
        "pubsub": defined("plugins/pubsub/tests"),
        "sqlite": defined("core/tests/backends"),
    }
    sentences = re.findall(r"^(\d+)\. ", PAGE, re.MULTILINE)
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert [number for number, _ in rows] == sentences
    for _, tests in rows:
        for part in tests.split("; "):
            suite, names = part.split(": ")
            for name in re.findall(r"`(\w+)`", names):
                assert name in known[suite], f"{suite}: {name}"
