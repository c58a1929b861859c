"""Schema languages as plugins: found by name, kept apart from hooks, refused with the reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dimesh.errors import PluginContractError, UnknownDriverError
from dimesh.plugins import PluginManager
from dimesh.plugins.discovery import OFFICIAL_EXTRAS, Kind
from dimesh.plugins.selection import unknown_driver

TOY = """
class Language:
    name, content_type, self_describing = "{name}", "text/x-toy", True
    def parse(self, text, references=None): raise NotImplementedError
    def compare(self, writer, reader, policy): raise NotImplementedError
language = Language()
"""


def language(name: str = "TOY", **members: Any) -> Any:
    methods = {"parse": lambda text, references=None: None, "compare": lambda writer, reader, policy: None}
    return SimpleNamespace(
        **{"name": name, "content_type": "text/x-toy", "self_describing": True, **methods, **members}
    )


def test_a_language_of_this_process_is_found_by_any_spelling_of_its_name() -> None:
    manager, toy = PluginManager(), language("TOY_LANGUAGE")
    manager.register(toy, kind=Kind.SCHEMA, name="toy-language")
    assert manager.schema_language("TOY_LANGUAGE") is toy
    assert manager.schema_language("toy-language") is toy
    assert manager.schema_languages()["TOY_LANGUAGE"] is toy


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        (SimpleNamespace(name="TOY", parse=None), "it lacks content_type, self_describing, compare"),
        (SimpleNamespace, "the class SimpleNamespace instead of an instance"),
        (language("OTHER"), "name its entry point 'other'"),
    ],
)
def test_what_is_no_language_is_refused(plugin: Any, says: str) -> None:
    with pytest.raises(PluginContractError, match=says):
        PluginManager().register(plugin, kind=Kind.SCHEMA, name="toy")


def test_an_unknown_language_is_refused_by_name() -> None:
    with pytest.raises(UnknownDriverError, match="no schema plugin is named 'klingon'"):
        PluginManager().schema_language("KLINGON")


def test_a_broken_language_is_a_warning_and_a_row(install: Any, run: Any) -> None:
    install(
        "toy-languages",
        {
            "toy_good": TOY.format(name="GOOD"),
            "toy_bad": "1 / 0",
            "toy_odd": TOY.format(name="OTHER"),
        },
        {
            "dimesh.schema": {
                "good": "toy_good:language",
                "bad": "toy_bad:language",
                "odd": "toy_odd:language",
                "avro": "toy_bad:language",
            }
        },
    )
    names, rows, warnings, imported = run(
        """
import json, logging, sys
warnings = []
class Keep(logging.Handler):
    def emit(self, record): warnings.append(record.getMessage())
logging.getLogger("dimesh.plugins").addHandler(Keep(logging.WARNING))
from dimesh.plugins import PluginManager
manager = PluginManager(block=["toy-languages:schema.avro"])
manager.schema_language("GOOD")
imported = [name for name in sys.modules if name.startswith("toy_")]
names = sorted(manager.schema_languages())
rows = {r.name: [r.state, r.reason] for r in manager.rows() if r.distribution == "toy-languages"}
print(json.dumps([names, rows, warnings, imported]))
"""
    )
    assert imported == ["toy_good"]
    assert "GOOD" in names
    assert not {"OTHER", "BAD"} & set(names)
    assert rows["good"] == ["loaded", ""]
    assert rows["bad"][0] == rows["odd"][0] == "failed"
    assert "ZeroDivisionError" in rows["bad"][1]
    assert rows["avro"][0] == "blocked"
    assert sorted("bad" in w or "odd" in w for w in warnings if "toy-languages" in w) == [True, True]


def test_an_official_language_that_is_missing_names_its_extra() -> None:
    assert 'pip install "dimesh[avro]"' in unknown_driver(Kind.SCHEMA, "avro", [])
    assert set(OFFICIAL_EXTRAS[Kind.SCHEMA]) == {"avro", "protobuf"}
