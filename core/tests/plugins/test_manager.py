"""The manager with plugins of this process: registering, asking, telling."""

from __future__ import annotations

import inspect
import logging
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import Distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dimesh.backends.bus.memory import MemoryBackend, MemoryOptions
from dimesh.clock import ManualClock
from dimesh.errors import ConfigurationError, PluginContractError, PluginError, UnknownDriverError
from dimesh.plugins import PluginManager, default_manager, hookspecs
from dimesh.plugins.discovery import Kind
from dimesh.spi import hookimpl
from dimesh.spi.context import PluginContext

EXTENSIONS = {"dimesh_interceptor", "dimesh_commands", "dimesh_http", "dimesh_start", "dimesh_stop"}
OBSERVERS = sorted(
    name
    for name, spec in vars(hookspecs).items()
    if name.startswith("dimesh_") and not spec.dimesh_spec["firstresult"] and name not in EXTENSIONS
)


class Driver:
    """Gives a memory backend and remembers what it was given."""

    asked: tuple[Any, Any] | None = None

    @hookimpl
    def dimesh_bus_backend(self, options: Any, context: PluginContext) -> Any:
        self.asked = (options, context)
        return MemoryBackend(MemoryOptions(), context.clock)


def observer(**hooks: Any) -> SimpleNamespace:
    """A plugin with these hooks; it cannot be hashed, and two of the same hooks are equal."""
    return SimpleNamespace(**{name: hookimpl(function) for name, function in hooks.items()})


def test_a_driver_of_this_process_comes_first() -> None:
    context, driver = PluginContext("shop", Path("data"), ManualClock()), Driver()
    manager = PluginManager(context=context)
    manager.register(driver, kind=Kind.BUS, name="sqlite")
    assert isinstance(manager.bus_backend("sqlite", {"path": "x"}), MemoryBackend)
    assert driver.asked == ({"path": "x"}, context)
    other = PluginContext()
    manager.bus_backend("sqlite", context=other)
    assert driver.asked == ({}, other)


def test_only_the_driver_that_is_asked_for_answers() -> None:
    manager = PluginManager()
    one, two = Driver(), Driver()
    manager.register(one, kind=Kind.BUS, name="one")
    manager.register(two, kind=Kind.BUS, name="two")
    manager.bus_backend("one")
    assert one.asked is not None
    assert two.asked is None


def test_the_driver_gets_options_of_its_own() -> None:
    manager, driver = PluginManager(), Driver()
    manager.register(driver, kind=Kind.BUS, name="toy")
    options = {"a": 1}
    manager.bus_backend("toy", options)
    assert driver.asked is not None
    driver.asked[0]["a"] = 2
    assert options == {"a": 1}


def test_an_error_of_the_driver_that_is_ours_passes_as_it_is() -> None:
    manager = PluginManager()
    with pytest.raises(ConfigurationError, match=r"there is no option 'capacty'; did you mean 'capacity'\?"):
        manager.bus_backend("memory", {"capacty": 1})


def test_a_driver_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match="needs a name"):
        PluginManager().register(Driver(), kind=Kind.BUS)


def test_kinds_do_not_mix() -> None:
    manager = PluginManager()
    manager.register(Driver(), kind=Kind.BUS, name="toy")
    with pytest.raises(UnknownDriverError, match="no lineage plugin is named 'toy'"):
        manager.lineage_sink("toy")


@pytest.mark.parametrize("hook", OBSERVERS)
def test_each_observer_hook_has_a_method_that_passes_all_arguments(hook: str) -> None:
    names = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    told: list[tuple[Any, ...]] = []
    scope: dict[str, Any] = {"told": told}
    exec(f"def {hook}({', '.join(names)}): told.append(({', '.join(names)},))", scope)
    manager = PluginManager()
    manager.register(observer(**{hook: scope[hook]}))
    function = getattr(manager, hook.removeprefix("dimesh_"))
    assert list(inspect.signature(function).parameters) == names
    function(*names)
    assert told == [tuple(names)]


def test_flags_tell_whether_anybody_listens() -> None:
    manager = PluginManager()
    assert (manager.observes_published, manager.observes_delivered) == (False, False)
    manager.register(observer(dimesh_delivered=lambda event: None))
    assert (manager.observes_published, manager.observes_delivered) == (False, True)
    manager.register(observer(dimesh_published=lambda event: None))
    assert (manager.observes_published, manager.observes_delivered) == (True, True)


def test_an_observer_that_raises_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    manager, seen = PluginManager(), []

    def bad(topic: str) -> None:
        seen.append("bad")
        raise ValueError("no")

    manager.register(observer(dimesh_published=lambda topic: seen.append("first")), name="first")
    manager.register(observer(dimesh_published=bad, dimesh_schema_registered=lambda: 1 / 0), name="bad")
    manager.register(observer(dimesh_published=lambda topic: seen.append("last")), name="last")
    with caplog.at_level(logging.WARNING, "dimesh.plugins"):
        for _ in range(2):
            manager.published("t", None, None)  # type: ignore[arg-type]
        manager.schema_registered(None)  # type: ignore[arg-type]
    assert seen == ["last", "bad", "first"] * 2  # pluggy's order: who came last is told first
    assert manager.observer_errors == 3
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]  # once for each hook
    assert "observer hooks 'bad' failed in dimesh_published" in caplog.messages[0]


def test_the_order_that_a_hook_asks_for_is_kept() -> None:
    manager, seen = PluginManager(), []

    class First:
        @hookimpl(tryfirst=True)
        def dimesh_published(self) -> None:
            seen.append("first")

    manager.register(First())
    manager.register(observer(dimesh_published=lambda: seen.append("other")))
    manager.published("t", None, None)  # type: ignore[arg-type]
    assert seen == ["first", "other"]


def test_a_failure_of_the_program_itself_passes() -> None:
    manager = PluginManager()

    def interrupted() -> None:
        raise KeyboardInterrupt

    manager.register(observer(dimesh_published=interrupted))
    with pytest.raises(KeyboardInterrupt):
        manager.published("t", None, None)  # type: ignore[arg-type]


def test_registering_twice_is_once_and_equal_plugins_are_refused_not_mixed_up() -> None:
    manager, seen = PluginManager(), []

    def hook(topic: str) -> None:
        seen.append(topic)

    one, equal = observer(dimesh_published=hook), observer(dimesh_published=hook)
    manager.register(one)
    manager.register(one)
    manager.published("t", None, None)  # type: ignore[arg-type]
    assert seen == ["t"]
    assert one == equal
    with pytest.raises(PluginContractError, match="already registered"):
        manager.register(equal)


class Wrapper:
    @hookimpl(wrapper=True)
    def dimesh_published(self) -> Any:
        return (yield)


class Coroutine:
    @hookimpl
    async def dimesh_published(self) -> None: ...


class Misspelt:
    @hookimpl
    def dimesh_delivered(self) -> None: ...

    @hookimpl
    def dimesh_pubished(self) -> None: ...


class Named:
    @hookimpl(specname="dimesh_nothing_like_it")
    def anything(self) -> None: ...


class Arguments:
    @hookimpl
    def dimesh_published(self, topik: str) -> None: ...


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        (Wrapper(), "is a wrapper"),
        (Coroutine(), "is an async function"),
        (Misspelt(), "'dimesh_pubished', which is not a hook; did you mean 'dimesh_published'?"),
        (Named(), "'dimesh_nothing_like_it', which is not a hook"),
        (Arguments(), "topik"),
        (object(), "implements no hook: mark its functions"),
        (None, "is None, not a plugin"),
    ],
)
def test_hooks_that_do_not_fit_are_refused_and_leave_nothing_behind(plugin: Any, says: str) -> None:
    manager = PluginManager()
    with pytest.raises(PluginContractError, match=says.replace("?", r"\?")):
        manager.register(plugin, name="toy")
    assert not manager.observes_published
    manager.delivered("t", "s", None)  # type: ignore[arg-type]
    assert manager.observer_errors == 0
    manager.register(observer(dimesh_published=lambda: None), name="toy")  # the name is free again
    assert manager.observes_published


def test_a_hook_for_a_later_version_can_be_marked_optional() -> None:
    class Early:
        @hookimpl(optionalhook=True)
        def dimesh_from_tomorrow(self) -> None: ...

        @hookimpl
        def dimesh_published(self) -> None: ...

    manager = PluginManager()
    manager.register(Early())
    assert manager.observes_published


def test_a_provider_that_is_no_provider_is_refused() -> None:
    manager = PluginManager()
    manager.register(
        observer(dimesh_cdc_source=lambda options: SimpleNamespace(name="x")), kind=Kind.CDC, name="toy"
    )
    with pytest.raises(PluginContractError, match=r"is not a CDCSource: it lacks .*snapshot"):
        manager.cdc_source("toy")


def test_an_exception_that_cannot_be_printed_is_still_reported() -> None:
    class Ugly(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def raises(options: Any) -> None:
        raise Ugly

    manager = PluginManager()
    manager.register(observer(dimesh_registry_store=raises), kind=Kind.REGISTRY, name="toy")
    with pytest.raises(PluginError, match="Ugly"):
        manager.registry_store("toy")


def test_the_default_manager_is_one() -> None:
    assert default_manager() is default_manager()


class _CountingFinder(MetaPathFinder):
    """Counts how often somebody looks through the installed distributions. It has none."""

    def __init__(self) -> None:
        self.looks = 0

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        return None

    def find_distributions(self, context: object = None) -> list[Distribution]:
        self.looks += 1
        return []


def test_the_many_sources_of_one_driver_look_through_the_distributions_once(tmp_path: Path) -> None:
    manager = PluginManager()
    finder = _CountingFinder()
    sys.meta_path.append(finder)
    try:
        manager.cdc_source("outbox", {"path": str(tmp_path / "a.db")})
        first = finder.looks
        manager.cdc_source("outbox", {"path": str(tmp_path / "b.db")})
    finally:
        sys.meta_path.remove(finder)
    assert first > 0
    assert finder.looks == first
