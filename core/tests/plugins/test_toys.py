"""What becomes of good and bad plugins that are really installed, all of them side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DRIVER = """
from dimesh.backends.bus.memory import MemoryBackend, MemoryOptions
from dimesh.spi import hookimpl

class Plugin:
    @hookimpl
    def dimesh_bus_backend(self, options, context):
        return MemoryBackend(MemoryOptions(**options), context.clock)

plugin = Plugin()
"""
GIVES = """
from dimesh.spi import hookimpl

class Plugin:
    @hookimpl
    def dimesh_bus_backend(self, options):
        {body}

plugin = Plugin()
"""
OBSERVES = """
import sys
from dimesh.spi import hookimpl

seen = []

{hook}
"""

# distribution: (source of its module, entry points by group)
TOYS: dict[str, tuple[str, dict[str, dict[str, str]]]] = {
    "toy-good": (DRIVER, {"dimesh.bus": {"good": "toy_good:plugin"}}),
    "toy-needy": ("import no_such_client.deep", {"dimesh.bus": {"needy": "toy_needy:plugin"}}),
    "toy-lazy": (GIVES.format(body="import no_such_client"), {"dimesh.bus": {"lazy": "toy_lazy:plugin"}}),
    "toy-hollow": ("", {"dimesh.bus": {"hollow": "toy_hollow_gone:plugin"}}),
    "toy-young": ("import dimesh.from_tomorrow", {"dimesh.bus": {"young": "toy_young:plugin"}}),
    "toy-crash": ("raise RuntimeError('boom')", {"dimesh.bus": {"crash": "toy_crash:plugin"}}),
    "toy-exit": ("import sys; sys.exit('bye')", {"dimesh.bus": {"exit": "toy_exit:plugin"}}),
    "toy-panic": (
        "class Panic(BaseException): pass\nraise Panic('core')",
        {"dimesh.bus": {"panic": "toy_panic:plugin"}},
    ),
    "toy-fumble": ("import sys; sys.no_such_function()", {"dimesh.bus": {"fumble": "toy_fumble:plugin"}}),
    "toy-absent": ("", {"dimesh.bus": {"absent": "toy_absent:nothing"}}),
    "toy-garbled": ("", {"dimesh.bus": {"garbled": "no target!"}}),
    "toy-old": (DRIVER + "plugin.contract_version = 0", {"dimesh.bus": {"old": "toy_old:plugin"}}),
    "toy-new": (DRIVER + "plugin.contract_version = 2", {"dimesh.bus": {"new": "toy_new:plugin"}}),
    "toy-odd": (DRIVER + "plugin.contract_version = '1'", {"dimesh.bus": {"odd": "toy_odd:plugin"}}),
    "toy-twin-a": (DRIVER, {"dimesh.bus": {"twin": "toy_twin_a:plugin"}}),
    "toy-twin-b": (
        DRIVER,
        {"dimesh.bus": {"twin": "toy_twin_b:plugin", "other": "toy_twin_b:plugin"}},
    ),
    "toy-none": (GIVES.format(body="return None"), {"dimesh.bus": {"none": "toy_none:plugin"}}),
    "toy-thing": (GIVES.format(body="return object()"), {"dimesh.bus": {"thing": "toy_thing:plugin"}}),
    "toy-class": (
        GIVES.format(body="from dimesh.backends.bus.memory import MemoryBackend; return MemoryBackend"),
        {"dimesh.bus": {"class": "toy_class:plugin"}},
    ),
    "toy-raiser": (
        GIVES.format(body="raise KeyError('host')"),
        {"dimesh.bus": {"raiser": "toy_raiser:plugin"}},
    ),
    "toy-quitter": (GIVES.format(body="raise SystemExit"), {"dimesh.bus": {"quitter": "toy_quitter:plugin"}}),
    "toy-mute": ("plugin = 7", {"dimesh.bus": {"mute": "toy_mute:plugin"}}),
    "toy-wrong-kind": (
        OBSERVES.format(hook="@hookimpl\ndef dimesh_published(topic): pass"),
        {"dimesh.bus": {"wrong-kind": "toy_wrong_kind"}},
    ),
    "toy-misspelt": (
        DRIVER.replace("dimesh_bus_backend", "dimesh_bus_backened"),
        {"dimesh.bus": {"misspelt": "toy_misspelt:plugin"}},
    ),
    "toy-signature": (
        DRIVER.replace("options, context", "opts, context"),
        {"dimesh.bus": {"signature": "toy_signature:plugin"}},
    ),
    "toy-async": (
        DRIVER.replace("    def ", "    async def "),
        {"dimesh.bus": {"async": "toy_async:plugin"}},
    ),
    "toy-watch": (
        OBSERVES.format(hook="@hookimpl\ndef dimesh_published(topic):\n    seen.append(topic)"),
        {"dimesh.hooks": {"watch": "toy_watch"}},
    ),
    "toy-watch-raises": (
        OBSERVES.format(hook="@hookimpl\ndef dimesh_published():\n    raise OSError('disk full')"),
        {"dimesh.hooks": {"watch-raises": "toy_watch_raises"}},
    ),
    "toy-watch-exits": (
        OBSERVES.format(hook="@hookimpl\ndef dimesh_published():\n    sys.exit(1)"),
        {"dimesh.hooks": {"watch-exits": "toy_watch_exits"}},
    ),
    "toy-watch-misspelt": (
        OBSERVES.format(hook="@hookimpl\ndef dimesh_publishd(topic): pass"),
        {"dimesh.hooks": {"watch-misspelt": "toy_watch_misspelt"}},
    ),
    # Official and built-in names, taken by strangers.
    "toy-thief": (
        DRIVER + "print('stolen')",
        {"dimesh.bus": {"memory": "toy_thief:plugin", "sqlite": "toy_thief:plugin"}},
    ),
    "toy-impostor": (
        OBSERVES.format(hook="@hookimpl\ndef dimesh_published(topic): pass"),
        {"dimesh.hooks": {"kafka": "toy_impostor"}, "dimesh.bus": {"kafka": "toy_impostor"}},
    ),
    "toy-chatty": (
        "print('at import')\n"
        + DRIVER.replace("        return", "        print('in the hook')\n        return"),
        {"dimesh.bus": {"chatty": "toy_chatty:plugin"}},
    ),
    "toy-foreign": (
        GIVES.format(body="import module_of_the_user"),
        {"dimesh.bus": {"foreign": "toy_foreign:plugin"}},
    ),
    "toy-watch-crash": ("1 / 0", {"dimesh.hooks": {"watch-crash": "toy_watch_crash"}}),
}


@pytest.fixture(scope="session")
def toys(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """All toys installed: their folder, and one to work in."""
    work = tmp_path_factory.mktemp("toys")
    wheels = [
        tools.build_wheel(work, name, {name.replace("-", "_"): source}, points)
        for name, (source, points) in TOYS.items()
    ]
    tools.install_wheels(work / "site", *wheels)
    return work / "site", work


@pytest.fixture(scope="session")
def outcomes(tools: Any, toys: tuple[Path, Path]) -> dict[str, dict[str, Any]]:
    """What asking for each bus driver gave, all by one manager in one process."""
    names = sorted(
        {name for toy, (_, points) in TOYS.items() for name in points.get("dimesh.bus", {})}
        - {"memory", "sqlite", "kafka"}
    )
    found: dict[str, dict[str, Any]] = tools.run_code(
        *toys,
        f"""
import json
from dimesh.plugins import PluginManager
manager = PluginManager()
outcomes = {{}}
for name in {names}:
    try:
        outcomes[name] = {{"gave": type(manager.bus_backend(name)).__name__}}
    except Exception as error:
        outcomes[name] = {{
            "types": [kind.__name__ for kind in type(error).__mro__],
            "message": str(error),
            "cause": type(error.__cause__).__name__,
        }}
for row in manager.rows():
    if row.kind == "bus" and row.name in outcomes:
        outcomes[row.name] |= {{"state": row.state, "reason": row.reason}}
print(json.dumps(outcomes))
""",
    )
    return found


@pytest.mark.slow
def test_a_good_plugin_works_beside_the_bad_ones(outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes["good"] == {"gave": "MemoryBackend", "state": "loaded", "reason": ""}
    assert outcomes["other"]["state"] == "loaded"


@pytest.mark.parametrize(
    ("name", "kind", "cause", "says"),
    [
        ("needy", "PluginError", "ModuleNotFoundError", "needs the module 'no_such_client'"),
        ("lazy", "PluginError", "ModuleNotFoundError", "needs the module 'no_such_client'"),
        ("hollow", "PluginError", "ModuleNotFoundError", "does not contain: reinstall"),
        ("young", "PluginError", "ModuleNotFoundError", "this dimesh does not have: upgrade"),
        ("crash", "PluginError", "RuntimeError", "failed while it was imported: RuntimeError: boom"),
        ("exit", "PluginError", "SystemExit", "failed while it was imported: SystemExit: bye"),
        ("panic", "PluginError", "Panic", "failed while it was imported: Panic: core"),
        ("fumble", "PluginError", "AttributeError", "failed while it was imported: AttributeError"),
        ("absent", "PluginError", "AttributeError", "there is no such attribute"),
        ("garbled", "PluginError", None, "not of the form module:attribute"),
        ("old", "PluginContractError", "NoneType", "contract version 0, this dimesh has 1: upgrade toy-old"),
        ("new", "PluginContractError", "NoneType", "contract version 2, this dimesh has 1: upgrade dimesh"),
        ("odd", "PluginContractError", "NoneType", "contract version '1'"),
        ("twin", "PluginConflictError", "NoneType", "offered by toy-twin-a 1.0 and toy-twin-b 1.0"),
        ("none", "PluginContractError", "NoneType", "returned None"),
        ("thing", "PluginContractError", "NoneType", "is not a BusBackend: it lacks append"),
        ("class", "PluginContractError", "NoneType", "returned the class MemoryBackend"),
        ("raiser", "PluginError", "KeyError", "failed in dimesh_bus_backend: KeyError: 'host'"),
        ("quitter", "PluginError", "SystemExit", "failed in dimesh_bus_backend: SystemExit"),
        ("mute", "PluginContractError", "NoneType", "implements no hook"),
        ("wrong-kind", "PluginContractError", "NoneType", "does not implement dimesh_bus_backend"),
        ("misspelt", "PluginContractError", "NoneType", "did you mean 'dimesh_bus_backend'?"),
        ("signature", "PluginContractError", "PluginValidationError", "opts"),
        ("async", "PluginContractError", "NoneType", "is an async function"),
    ],
)
def test_a_configured_plugin_that_fails_says_why(
    outcomes: dict[str, dict[str, Any]], name: str, kind: str, cause: str | None, says: str
) -> None:
    outcome = outcomes[name]
    assert outcome["types"][0] == kind
    assert "PluginError" in outcome["types"]
    assert says in outcome["message"]
    assert f"bus '{name}'" in outcome["message"]
    assert cause is None or outcome["cause"] == cause
    assert "pip install" not in outcome["message"]  # it is installed


def test_rows_remember_what_failed(outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes["crash"]["state"] == "failed"
    assert outcomes["crash"]["reason"] == outcomes["crash"]["message"]
    assert outcomes["twin"]["state"] == "conflict"
    assert "toy-twin-a" in outcomes["twin"]["reason"]
    assert "toy-twin-b" not in outcomes["twin"]["reason"]  # the row's own


@pytest.mark.slow
def test_listing_imports_nothing(tools: Any, toys: tuple[Path, Path], tmp_path: Path) -> None:
    site, _ = toys
    listed = tools.run_code(
        site,
        tmp_path,
        """
import json, sys
from dimesh.plugins import PluginManager
rows = PluginManager().rows()
light = not {"sqlite3", "networkx", "dimesh.backends.bus.memory"} & set(sys.modules)
print(json.dumps([light, [[r.kind, r.name, r.distribution, r.version, r.state] for r in rows]]))
""",
    )
    light, rows = listed
    assert light
    assert ["bus", "crash", "toy-crash", "1.0", "available"] in rows
    assert ["hooks", "watch", "toy-watch", "1.0", "available"] in rows
    assert {row[2] for row in rows} >= set(TOYS)
    assert list((tmp_path / "marks").iterdir()) == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_only_the_driver_asked_for_is_imported(tools: Any, toys: tuple[Path, Path], tmp_path: Path) -> None:
    site, _ = toys
    tools.run_code(
        site,
        tmp_path,
        "from dimesh.plugins import PluginManager; PluginManager().bus_backend('good'); print(0)",
    )
    assert [path.name for path in (tmp_path / "marks").iterdir()] == ["toy_good"]


@pytest.mark.slow
def test_observers_fail_alone_and_are_said_once(tools: Any, toys: tuple[Path, Path], tmp_path: Path) -> None:
    site, _ = toys
    warnings, rows, seen, errors, observes = tools.run_code(
        site,
        tmp_path,
        """
import json, logging
warnings = []
class Keep(logging.Handler):
    def emit(self, record): warnings.append(record.getMessage())
logging.getLogger("dimesh.plugins").addHandler(Keep(logging.WARNING))
from dimesh.plugins import PluginManager
manager = PluginManager()
manager.load_observers()
manager.load_observers()
observes = [manager.observes_published, manager.observes_delivered]
for n in range(3):
    manager.published(f"topic{n}", None, None)
import toy_watch
rows = {r.name: [r.state, r.reason] for r in manager.rows() if r.kind == "hooks" and "toy" in r.distribution}
print(json.dumps([warnings, rows, toy_watch.seen, manager.observer_errors, observes]))
""",
    )
    assert seen == ["topic0", "topic1", "topic2"]
    assert errors == 6
    assert observes == [True, False]
    assert rows["watch"] == ["loaded", ""]
    assert rows["watch-raises"] == ["loaded", ""]
    assert rows["watch-crash"][0] == rows["watch-misspelt"][0] == "failed"
    assert "did you mean 'dimesh_published'?" in rows["watch-misspelt"][1]
    about = {name: [w for w in warnings if f"'{name}'" in w] for name in rows}
    assert {name: len(said) for name, said in about.items()} == {
        "watch": 0,
        "kafka": 0,
        "watch-raises": 1,
        "watch-exits": 1,
        "watch-crash": 1,
        "watch-misspelt": 1,
    }
    assert "OSError: disk full" in about["watch-raises"][0]
    assert "toy-watch-raises 1.0" in about["watch-raises"][0]


@pytest.mark.parametrize(
    ("arguments", "gave", "says"),
    [
        (
            "block=['toy-good']",
            None,
            "bus 'good' of toy-good 1.0 is installed but may not be used: it is on the block",
        ),
        ("block=['good']", None, "on the block list"),
        ("block=['bus.good']", None, "on the block list"),
        ("block=['registry.good']", "MemoryBackend", ""),
        ("allow=['memory']", None, "not on the allow list"),
        ("allow=['Toy_Good']", "MemoryBackend", ""),
        ("allow=['good'], block=['toy_good:bus.good']", None, "on the block list"),
        ("allow=['toy-good:bus.good']", "MemoryBackend", ""),
        ("allow=['bus.good']", "MemoryBackend", ""),
        ("allow=['toy-good:registry.good']", None, "not on the allow list"),
        ("allow=['toy-watch']", None, "not on the allow list"),
    ],
)
@pytest.mark.slow
def test_allow_and_block(
    tools: Any, toys: tuple[Path, Path], tmp_path: Path, arguments: str, gave: str | None, says: str
) -> None:
    site, _ = toys
    name, message, state, builtin = tools.run_code(
        site,
        tmp_path,
        f"""
import json
from dimesh.plugins import PluginManager
manager = PluginManager({arguments})
name = message = None
try:
    name = type(manager.bus_backend("good")).__name__
except ValueError as error:
    message = str(error)
state = next(row.state for row in manager.rows() if row.name == "good")
print(json.dumps([name, message, state, type(manager.bus_backend("memory")).__name__]))
""",
    )
    assert name == gave
    assert says in (message or "")
    assert state == ("blocked" if gave is None else "loaded")
    assert builtin == "MemoryBackend"  # what is built in need not be allowed
    if gave is None:
        assert list((tmp_path / "marks").iterdir()) == []


@pytest.mark.slow
def test_a_conflict_is_settled_as_its_message_says(
    tools: Any, toys: tuple[Path, Path], tmp_path: Path, outcomes: dict[str, dict[str, Any]]
) -> None:
    site, _ = toys
    assert '[plugins] block = ["toy-twin-b:bus.twin"]' in outcomes["twin"]["message"]
    rows = tools.run_code(
        site,
        tmp_path,
        """
import json
from dimesh.plugins import PluginManager
manager = PluginManager(block=["toy-twin-b:bus.twin"])
manager.bus_backend("twin")
manager.bus_backend("other")
print(json.dumps({f"{r.distribution} {r.name}": r.state for r in manager.rows()}))
""",
    )
    assert rows["toy-twin-a twin"] == "loaded"
    assert rows["toy-twin-b twin"] == "blocked"
    assert rows["toy-twin-b other"] == "loaded"


def test_a_built_in_name_cannot_be_taken(tools: Any, toys: tuple[Path, Path], tmp_path: Path) -> None:
    site, _ = toys
    made, warnings, rows = tools.run_code(
        site,
        tmp_path,
        """
import json, logging
warnings = []
class Keep(logging.Handler):
    def emit(self, record): warnings.append(record.getMessage())
logging.getLogger("dimesh.plugins").addHandler(Keep(logging.WARNING))
from dimesh.plugins import PluginManager
manager = PluginManager()
made = [type(manager.bus_backend("memory")).__module__ for _ in range(3)]
rows = [[r.distribution, r.state, r.reason] for r in manager.rows() if (r.kind, r.name) == ("bus", "memory")]
print(json.dumps([made, warnings, rows]))
""",
    )
    assert made == ["dimesh.backends.bus.memory.backend"] * 3
    assert warnings == ["bus 'memory' of toy-thief 1.0 is ignored: the name belongs to dimesh itself"]
    assert rows == [
        ["dimesh", "loaded", ""],
        ["toy-thief", "blocked", "the name bus.memory belongs to dimesh itself"],
    ]
    assert list((tmp_path / "marks").iterdir()) == []


@pytest.mark.slow
def test_an_official_name_on_the_allow_list_admits_no_stranger(
    tools: Any, toys: tuple[Path, Path], tmp_path: Path
) -> None:
    site, _ = toys
    rows = tools.run_code(
        site,
        tmp_path,
        """
import json
from dimesh.plugins import PluginManager
rows = {}
for entry in ("kafka", "bus.kafka", "toy-impostor:hooks.kafka"):
    manager = PluginManager(allow=[entry])
    manager.load_observers()
    rows[entry] = {f"{r.distribution}:{r.kind}.{r.name}": r.state for r in manager.rows() if r.name == "kafka"}
print(json.dumps(rows))
""",
    )
    for entry in ("kafka", "bus.kafka"):
        assert rows[entry]["toy-impostor:hooks.kafka"] == "blocked"
        assert rows[entry]["toy-impostor:bus.kafka"] == "blocked"
        assert rows[entry].get("dimesh-kafka:bus.kafka", "available") == "available"
    assert rows["toy-impostor:hooks.kafka"]["toy-impostor:hooks.kafka"] == "loaded"
    assert rows["toy-impostor:hooks.kafka"]["toy-impostor:bus.kafka"] == "blocked"


@pytest.mark.slow
def test_entries_of_the_lists_without_effect_are_reported(
    tools: Any, toys: tuple[Path, Path], tmp_path: Path
) -> None:
    site, _ = toys
    warnings, rows = tools.run_code(
        site,
        tmp_path,
        """
import json, logging
warnings = []
class Keep(logging.Handler):
    def emit(self, record): warnings.append(record.getMessage())
logging.getLogger("dimesh.plugins").addHandler(Keep(logging.WARNING))
from dimesh.plugins import PluginManager
manager = PluginManager(allow=["toy-goood", "twin", "watch", "memory", "toy-good"], block=["nobody", "good"])
manager.load_observers()
rows = {r.name: r.reason for r in manager.rows() if r.state == "unknown"}
print(json.dumps([warnings, rows]))
""",
    )
    unknown = "no installed plugin or distribution has this name"
    assert rows == {
        "toy-goood": f"on the allow list, but {unknown}; did you mean 'toy-good'?",
        "twin": "on the allow list, but it could mean toy-twin-a:bus.twin, toy-twin-b:bus.twin: name one of these",
        "watch": "on the allow list, but an observer is listed with its distribution: toy-watch:hooks.watch",
        "nobody": f"on the block list, but {unknown}",
    }
    assert warnings == [f"[plugins] {name!r} is {reason}" for name, reason in rows.items()]


def test_what_plugins_print_goes_to_standard_error(
    tools: Any, toys: tuple[Path, Path], tmp_path: Path
) -> None:
    site, _ = toys
    code = """
from dimesh.plugins import PluginManager
PluginManager().bus_backend("chatty")
print("done")
"""
    done = tools.run_process(site, tmp_path, "-c", code)
    assert done.stdout == "done\n"
    assert "at import" in done.stderr
    assert "in the hook" in done.stderr


def test_a_missing_module_of_the_user_does_not_blame_the_plugin(outcomes: dict[str, dict[str, Any]]) -> None:
    message = outcomes["foreign"]["message"]
    assert message.endswith("needs the module 'module_of_the_user', which is not installed")


@pytest.mark.slow
def test_checking_imports_each_and_shows_state_and_time(
    tools: Any, toys: tuple[Path, Path], tmp_path: Path
) -> None:
    site, _ = toys
    done = tools.run_process(site, tmp_path, "-m", "dimesh", "--output", "json", "plugins", "--check")
    rows = {(row["kind"], row["name"], row["distribution"]): row for row in json.loads(done.stdout)}
    assert done.returncode == 4  # some failed
    assert rows["bus", "good", "toy-good"]["state"] == "loaded"
    assert rows["bus", "good", "toy-good"]["ms"] > 0
    assert rows["bus", "memory", "dimesh"]["state"] == "loaded"
    assert rows["bus", "crash", "toy-crash"]["state"] == "failed"
    assert "boom" in rows["bus", "crash", "toy-crash"]["reason"]
    assert rows["bus", "wrong-kind", "toy-wrong-kind"]["reason"].endswith(
        "does not implement dimesh_bus_backend"
    )
    assert rows["bus", "memory", "toy-thief"]["ms"] is None
    assert "stolen" not in done.stdout + done.stderr
