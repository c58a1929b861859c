"""One installed plugin that adds an interceptor, an observer with options, start and stop, a page and a command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dimesh import Event
from dimesh.errors import ConfigurationError, PluginContractError, PluginError
from dimesh.mesh import Mesh
from dimesh.plugins import PluginManager
from dimesh.secrets import Secret
from dimesh.settings import load_settings
from dimesh.spi import hookimpl
from dimesh.spi.context import PluginContext
from dimesh_contracts.waiting import until

TOY = '''
import json
from dataclasses import replace
from dimesh.options import Options, parse_options
from dimesh.secrets import Secret
from dimesh.spi import hookimpl

class AuditOptions(Options, frozen=True):
    file: str
    api_key: Secret | None = None
    limit: int = 5

class Audit:
    contract_version = 1

    def note(self, **what):
        with open(self.options.file, "a") as file:
            file.write(json.dumps(what) + "\\n")

    @hookimpl
    def dimesh_start(self, options, context):
        print("starting", options)
        self.options = parse_options(AuditOptions, options, "audit")
        key = self.options.api_key.reveal() if self.options.api_key else ""
        self.note(what="start", mesh=context.mesh, key=len(key))

    @hookimpl
    def dimesh_stop(self):
        self.note(what="stop")

    @hookimpl
    def dimesh_delivered(self, topic, event):
        self.note(what="delivered", topic=topic, payload=event.payload)

    @hookimpl
    def dimesh_interceptor(self, context):
        return self

    async def handle(self, handling, events, call_next):
        self.note(what="handle", topic=handling.topic)
        return await call_next(events)

    @hookimpl
    def dimesh_commands(self, cli):
        @cli.command()
        def audit(count: int = 1):
            """Show the audit."""
            print("audit", count)

        @cli.command()
        def topics():
            """Steal a built-in command."""
            print("stolen")

    @hookimpl
    def dimesh_http(self, context):
        return [("/audit", self.page)]

    async def page(self, scope, receive, send):
        pass

plugin = Audit()
'''
BROKEN = "raise RuntimeError('no luck')"
HANDLER = """
def handle(event):
    print("handled", event.payload, flush=True)
"""
SETTINGS = """
[[handlers]]
topic = "orders"
call = "shop:handle"
start = "earliest"

[plugins.options.audit]
file = "audit.jsonl"
api_key = "hunter2"
"""


@pytest.fixture(scope="module")
def site(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("extended")
    tools.install_wheels(
        work / "site",
        tools.build_wheel(
            work, "toy-audit", {"toy_audit": TOY}, {"dimesh.hooks": {"audit": "toy_audit:plugin"}}
        ),
        tools.build_wheel(
            work, "toy-broken", {"toy_broken": BROKEN}, {"dimesh.hooks": {"broken": "toy_broken"}}
        ),
    )
    return work / "site"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "dimesh.toml").write_text(SETTINGS, "utf-8")
    (tmp_path / "shop.py").write_text(HANDLER, "utf-8")
    return tmp_path


@pytest.fixture
def dimesh(tools: Any, site: Path, work: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    return lambda *arguments: tools.run_process(site, work, "-m", "dimesh", *arguments)


def audited(work: Path) -> list[dict[str, Any]]:
    file = work / "audit.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.slow
async def test_a_running_mesh_uses_it(tools: Any, dimesh: Any, site: Path, work: Path) -> None:
    (work / "events.json").write_text('{"event_type": "order.created", "payload": 42}')
    process = subprocess.Popen(
        [sys.executable, "-m", "dimesh", "run"],
        env=tools.environment_of(site, work),
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        await until(lambda: bool(audited(work)))
        published = dimesh("publish", "orders", "events.json")
        assert published.returncode == 0, published.stderr
        await until(lambda: any(note["what"] == "delivered" for note in audited(work)))
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    notes = [note for note in audited(work) if note["what"] in ("start", "delivered", "stop", "handle")]
    assert notes[0] == {"what": "start", "mesh": "mesh", "key": 7}
    assert {"what": "delivered", "topic": "orders", "payload": 42} in notes
    assert notes.index({"what": "handle", "topic": "orders"}) < notes.index(
        {"what": "delivered", "topic": "orders", "payload": 42}
    )
    assert notes[-1] == {"what": "stop"}
    assert "starting" in err
    assert "starting" not in out  # a plugin's prints are no results
    assert "hunter2" not in out + err
    assert "no luck" in err  # the other plugin, which is only installed, is a warning


@pytest.mark.slow
def test_its_command_runs_and_built_in_ones_stay(dimesh: Any) -> None:
    done = dimesh("audit", "--count", "3")
    assert (done.returncode, done.stdout) == (0, "audit 3\n")
    listed = dimesh("--output", "json", "topics")
    assert listed.returncode == 0, listed.stderr
    assert "stolen" not in listed.stdout
    help_text = dimesh("--help").stdout
    assert "Show the audit." in help_text
    assert [line.split()[0] for line in help_text.splitlines() if line.startswith("  topics ")] == ["topics"]
    unknown = dimesh("audti")
    assert unknown.returncode == 2
    assert "audit" in unknown.stderr


@pytest.mark.slow
def test_a_built_in_command_loads_no_plugin_for_the_command_line(tools: Any, site: Path, work: Path) -> None:
    done = tools.run_process(site, work, "-m", "dimesh", "config", "show")
    assert done.returncode == 0, done.stderr
    assert list((work / "marks").iterdir()) == []
    assert "hunter2" not in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (
            "[plugins.options.audit]\nfile = 'a'\nlimit = 'many'\napi_key = 'hunter2'",
            3,
            "error: plugin 'audit': limit: expected `int`",
        ),
        (
            "[plugins.options.audit]\nfile = 'a'\nlimmit = 1",
            3,
            "plugin 'audit': there is no option 'limmit'; did you",
        ),
        ("[plugins.options.broken]\nx = 1", 4, "failed while it was imported: RuntimeError: no luck"),
        (
            "[plugins.options.adit]\nx = 1",
            4,
            "no hooks plugin is named 'adit'; installed are: audit, broken",
        ),
        ("[plugins]\nblock = ['audit']\noptions = {audit = {file = 'a'}}", 4, "it is on the block list"),
    ],
)
@pytest.mark.slow
def test_a_configured_plugin_that_fails_is_fatal(
    dimesh: Any, work: Path, options: str, code: int, says: str
) -> None:
    (work / "dimesh.toml").write_text(options, "utf-8")
    done = dimesh("topics")
    assert says in done.stderr
    assert done.returncode == code
    assert "hunter2" not in done.stderr
    assert done.stderr.count("plugin 'audit'") <= 1


# -- in this process -------------------------------------------------------------------------------


def plugin(**hooks: Any) -> SimpleNamespace:
    return SimpleNamespace(**{name: hookimpl(function) for name, function in hooks.items()})


def test_start_and_stop_in_order_with_options_of_each() -> None:
    manager, seen = PluginManager(), list[Any]()
    context = PluginContext("shop")
    for name in ("one", "two"):

        def start(options: Any, context: Any, name: str = name) -> None:
            seen.append((name, options, context.mesh))

        def stop(name: str = name) -> None:
            seen.append(f"stop {name}")

        manager.register(plugin(dimesh_start=start, dimesh_stop=stop), name=name)
    manager.load_observers({"two": {"token": "t", "n": 1}})
    manager.start(context)
    manager.start(context)
    manager.stop()
    manager.stop()
    assert seen == [
        ("one", {}, "shop"),
        ("two", {"token": Secret("t"), "n": 1}, "shop"),
        "stop two",
        "stop one",
    ]


def test_an_interceptor_knows_the_options_of_its_plugin_and_stop_knows_the_mesh() -> None:
    manager, seen = PluginManager(), list[Any]()
    context = PluginContext("shop")
    for name in ("one", "two"):

        def interceptor(options: Any, name: str = name) -> None:
            seen.append((name, options))

        def stop(context: Any, name: str = name) -> None:
            seen.append((f"stop {name}", context))

        manager.register(
            plugin(dimesh_interceptor=interceptor, dimesh_stop=stop, dimesh_start=lambda: None), name=name
        )
    manager.load_observers({"two": {"token": "t"}})
    manager.interceptors(context)
    manager.start(context)
    manager.stop()
    # One has no section in the settings, which is not the same as an empty one.
    assert sorted(seen[:2], key=str) == [("one", None), ("two", {"token": Secret("t")})]
    assert seen[2:] == [("stop two", context), ("stop one", context)]


def test_a_start_that_fails_stops_those_before_it() -> None:
    manager, seen = PluginManager(), list[str]()
    manager.register(
        plugin(dimesh_start=lambda: seen.append("start"), dimesh_stop=lambda: seen.append("stop")),
        name="good",
    )
    manager.register(plugin(dimesh_start=lambda: 1 / 0, dimesh_stop=lambda: seen.append("never")), name="bad")
    with pytest.raises(PluginError, match="'bad' failed in dimesh_start: ZeroDivisionError"):
        manager.start()
    assert seen == ["start", "stop"]


def test_options_for_a_plugin_that_takes_none() -> None:
    manager = PluginManager()
    manager.register(plugin(dimesh_published=lambda: None), name="watch")
    manager.load_observers({"watch": {"x": 1}})
    with pytest.raises(
        ConfigurationError, match=r"^plugin 'watch': it accepts no options: hooks 'watch' does not impl"
    ):
        manager.start()


async def test_a_mesh_starts_and_stops_them(tmp_path: Path) -> None:
    seen: list[str] = []
    manager = PluginManager()
    manager.register(
        plugin(
            dimesh_start=lambda context: seen.append(context.mesh), dimesh_stop=lambda: seen.append("stop")
        )
    )
    settings = load_settings(
        None, mesh={"name": "shop", "data_dir": str(tmp_path)}, bus={"driver": "memory"}
    ).settings
    async with Mesh(settings, manager=manager) as mesh:
        assert seen == ["shop"]
        await mesh.bus.publish("orders", Event("order.created"))
    assert seen == ["shop", "stop"]


class Outer:
    """An interceptor that the settings name."""

    seen: list[str]

    def __init__(self) -> None:
        self.seen = []

    async def publish(self, publishing: Any, events: Any, call_next: Any) -> Any:
        self.seen.append("outer")
        return await call_next(events)


outer = Outer()


async def test_interceptors_of_the_settings_come_before_those_of_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_outer.py").write_text(f"from {Outer.__module__} import Outer, outer\nnothing = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    class Inner:
        async def publish(self, publishing: Any, events: Any, call_next: Any) -> Any:
            outer.seen.append("inner")
            return await call_next(events)

    def settings(*paths: str) -> Any:
        given: dict[str, Any] = {"mesh": {"interceptors": list(paths)}, "bus": {"driver": "memory"}}
        return load_settings(None, **given).settings

    manager = PluginManager()
    manager.register(plugin(dimesh_interceptor=lambda context: Inner()))
    async with Mesh(settings("shop_outer:outer"), manager=manager) as mesh:
        await mesh.bus.publish("orders", Event("order.created"))
    assert outer.seen == ["outer", "inner"]
    for path, says in (
        ("shop_outer:Outer", "is a class without"),
        ("shop_outer:nothing", "is an object without"),
        ("shop_outer:missing", "has no 'missing'"),
        ("no_such_module:x", "no module 'no_such_module'"),
        ("shop_outer", "not of the form package.module:object"),
    ):
        with pytest.raises(ConfigurationError, match=f"^interceptor .*{says}"):
            Mesh(settings(path))


@pytest.mark.parametrize("result", [5, "x", type("NoInstance", (), {"publish": None}), object()])
def test_an_interceptor_that_is_none(result: Any) -> None:
    manager = PluginManager()
    manager.register(plugin(dimesh_interceptor=lambda context: result), name="odd")
    with pytest.raises(
        PluginContractError, match="as an interceptor: return an instance with a method publish or handle"
    ):
        manager.interceptors()


def test_pages_have_paths_of_their_own() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    manager = PluginManager()
    manager.register(plugin(dimesh_http=lambda context: [("/one", app)]), name="one")
    manager.register(plugin(dimesh_http=lambda context: None), name="none")
    assert manager.http_mounts() == [("/one", app)]
    manager.register(plugin(dimesh_http=lambda context: (("/one", app),)), name="two")
    with pytest.raises(
        PluginContractError, match="hooks 'two' mounts the path '/one', which hooks 'one' already mounts"
    ):
        manager.http_mounts()
    for wrong in ([("one", app)], [("/x", 5)], 5, [("/x",)]):
        manager = PluginManager()
        manager.register(plugin(dimesh_http=lambda context, wrong=wrong: wrong), name="odd")
        with pytest.raises(PluginContractError, match="hooks 'odd'"):
            manager.http_mounts()
