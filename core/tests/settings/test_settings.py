"""One file, the environment and arguments: which wins, where a value comes from, what is refused and how."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dimesh.errors import ConfigurationError
from dimesh.mesh import Mesh
from dimesh.secrets import Secret
from dimesh.settings import LoadedSettings, MeshSettings, is_secret, load_settings

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder and no variables of ours."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("DIMESH_"):
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def do(text: str) -> Path:
        file = tmp_path / "dimesh.toml"
        file.write_text(text, "utf-8")
        return file

    return do


def shown(loaded: LoadedSettings) -> dict[str, tuple[str, str]]:
    return {key: (value, origin) for key, value, origin in loaded.rows()}


# -- where values come from ------------------------------------------------------------------------------


def test_without_a_file_the_defaults_hold() -> None:
    loaded = load_settings()
    assert loaded.path is None
    assert loaded.settings == MeshSettings()
    assert loaded.settings.bus.driver == "sqlite"
    assert {origin for _, origin in shown(loaded).values()} == {"default"}


def test_the_file_in_the_working_folder_is_read(write: Write) -> None:
    write(
        """
        [mesh]
        name = "shop"
        [bus]
        driver = "memory"
        options = { partitions = 4 }
        [[handlers]]
        topic = "orders"
        call = "shop.orders:bill"
        priorities = ["high", "critical"]
        [[sources]]
        driver = "outbox"
        name = "app"
        objects = ["orders"]
        [plugins]
        block = ["toy"]
        """
    )
    settings = load_settings().settings
    assert settings.mesh.name == "shop"
    assert settings.bus.options == {"partitions": 4}
    assert settings.handlers[0].call == "shop.orders:bill"
    assert settings.sources[0].objects == ["orders"]
    assert settings.plugins.allow is None
    assert settings.plugins.block == ["toy"]


def test_a_file_above_the_working_folder_is_not_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("[mesh]\nname = 'above'")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert load_settings().path is None


def test_the_path_given_comes_before_the_variable_and_that_before_the_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("[mesh]\nname = 'folder'")
    (tmp_path / "v.toml").write_text("[mesh]\nname = 'variable'")
    (tmp_path / "p.toml").write_text("[mesh]\nname = 'path'")
    assert load_settings().settings.mesh.name == "folder"
    monkeypatch.setenv("DIMESH_CONFIG", "v.toml")
    assert load_settings().settings.mesh.name == "variable"
    assert load_settings("p.toml").settings.mesh.name == "path"
    monkeypatch.setenv("DIMESH_CONFIG", "")
    assert load_settings().settings.mesh.name == "folder"


def test_arguments_before_environment_before_file_before_defaults(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        "[bus]\ndriver='file'\ndrain_timeout=1\npublish_timeout=2\n[bus.options]\na='file'\nb='file'\nc='file'"
    )
    monkeypatch.setenv("DIMESH_BUS__DRIVER", "environment")
    monkeypatch.setenv("DIMESH_BUS__DRAIN_TIMEOUT", "5")
    monkeypatch.setenv("DIMESH_BUS__OPTIONS__B", "environment")
    loaded = load_settings(bus={"driver": "argument", "options": {"c": "argument"}})
    bus = loaded.settings.bus
    assert (bus.driver, bus.drain_timeout, bus.publish_timeout) == ("argument", 5.0, 2.0)
    assert bus.options == {"a": "file", "b": "environment", "c": "argument"}
    found = shown(loaded)
    assert found["bus.driver"][1] == "argument"
    assert found["bus.drain_timeout"] == ("5.0", "DIMESH_BUS__DRAIN_TIMEOUT")
    assert found["bus.publish_timeout"] == ("2.0", "dimesh.toml")
    assert found["bus.validate_schemas"] == ("False", "default")
    assert found["bus.options.a"] == ("file", "dimesh.toml")
    assert found["bus.options.b"] == ("environment", "DIMESH_BUS__OPTIONS__B")
    assert found["bus.options.c"] == ("argument", "argument")


def test_a_section_as_json_in_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMESH_BUS", '{"driver": "memory"}')
    loaded = load_settings()
    assert loaded.settings.bus.driver == "memory"
    assert loaded.origin("bus.driver") == "DIMESH_BUS"
    assert loaded.origin("bus.drain_timeout") == "default"


def test_a_list_is_replaced_as_a_whole_and_so_is_its_origin(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("[[handlers]]\ntopic='a'\ncall='m:f'\ngroup='g'\n[[handlers]]\ntopic='b'\ncall='m:f'")
    monkeypatch.setenv("DIMESH_HANDLERS", '[{"topic": "c", "call": "m:g"}]')
    loaded = load_settings()
    assert [handler.topic for handler in loaded.settings.handlers] == ["c"]
    assert loaded.origin("handlers.0.topic") == "DIMESH_HANDLERS"
    assert loaded.origin("handlers.0.group") == "default"  # the file's group is not this handler's


def test_several_threads_read_different_files(tmp_path: Path) -> None:
    names = [f"mesh{n}" for n in range(8)]
    for name in names:
        (tmp_path / f"{name}.toml").write_text(f"[mesh]\nname = '{name}'")
    found: dict[str, set[str]] = {}

    def read(name: str) -> None:
        found[name] = {load_settings(f"{name}.toml").settings.mesh.name for _ in range(20)}

    threads = [threading.Thread(target=read, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: {name} for name in names}


# -- secrets ---------------------------------------------------------------------------------------------


def test_a_reference_stands_for_a_variable_and_is_never_shown(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", "sk_live_42")
    monkeypatch.setenv("BROKER", "broker.example")
    write(
        "[[sources]]\ndriver='stripe'\nname='s'\nobjects=['charges']\n"
        "[sources.options]\napi_key='${STRIPE_API_KEY}'\nhosts=['https://${BROKER}:1/${BROKER}']\nplain='$${HOME} $x'"
    )
    loaded = load_settings()
    assert loaded.settings.sources[0].options == {
        "api_key": Secret("sk_live_42"),
        "hosts": ["https://broker.example:1/broker.example"],
        "plain": "${HOME} $x",
    }
    found = shown(loaded)
    assert found["sources.0.options.api_key"] == ("********", "dimesh.toml (${STRIPE_API_KEY})")
    assert found["sources.0.options.hosts"][0] == "********"
    assert found["sources.0.options.plain"] == ("${HOME} $x", "dimesh.toml")
    everything = f"{loaded!r} {loaded.settings!r} {loaded.rows()}"
    assert "sk_live_42" not in everything
    assert "broker.example" not in everything


@pytest.mark.parametrize("reference", ["${NOT_SET_ANYWHERE}", "x${NOT_SET_ANYWHERE}y"])
def test_a_reference_to_a_variable_that_is_not_set(write: Write, reference: str) -> None:
    write(f"[bus.options]\ntoken = '{reference}'")
    with pytest.raises(
        ConfigurationError, match=r"bus\.options\.token needs the environment variable NOT_SET_ANY"
    ):
        load_settings()


@pytest.mark.parametrize("part", ["sources.options", "registry.options", "lineage.options"])
def test_a_part_that_is_not_used_needs_no_secret(write: Write, part: str) -> None:
    source = "[[sources]]\ndriver = 'outbox'\nname = 's'\nobjects = ['o']\n"
    write(f"{source}[{part}]\npath = 'in/${{NOT_SET_ANYWHERE}}'\nlist = [{{ a = '${{NOT_SET_EITHER}}' }}]")
    loaded = load_settings(bus={"driver": "memory"})
    mesh = Mesh(loaded.settings)  # as for a command that uses the bus alone
    key = part.replace("sources", "sources.0")
    uses: dict[str, Callable[[], object]] = {
        "sources.options": lambda: mesh.source(loaded.settings.sources[0]),
        "registry.options": lambda: mesh.registry,
        "lineage.options": lambda: mesh.lineage,
    }
    with pytest.raises(ConfigurationError, match=rf"dimesh\.toml: {key}\.path needs .* NOT_SET_ANYWHERE, "):
        uses[part]()
    assert shown(loaded)[f"{key}.path"] == ("(not set)", "dimesh.toml (${NOT_SET_ANYWHERE})")


@pytest.mark.parametrize("reference", ["${}", "${A-B}", "${1}", "${UNCLOSED", "${ HOME }"])
def test_a_malformed_reference_is_no_secret_by_accident(write: Write, reference: str) -> None:
    write(f"[bus.options]\ntoken = '{reference}'")
    with pytest.raises(ConfigurationError, match="a reference must have the form"):
        load_settings()


SECRET = [
    "api_key",
    "apiKey",
    "key",
    "consumer_key",
    "access_token",
    "client_secret",
    "password",
    "sasl_plain_password",
    "passphrase",
    "private_key_pem",
    "credentials",
    "authorization",
    "credentials.user",
    "dsn",
]


@pytest.mark.parametrize("name", SECRET)
def test_options_whose_names_look_secret_are_masked(write: Write, name: str) -> None:
    write(f"[bus.options]\n{name} = 'hunter2'\n[lineage.options]\n{name} = ['hunter2']")
    loaded = load_settings()
    assert is_secret(f"bus.options.{name}")
    assert "hunter2" not in f"{loaded!r} {loaded.settings!r} {loaded.rows()}"


def test_secrets_inside_of_lists_tables_and_urls_are_masked(write: Write) -> None:
    write(
        "[bus.options]\nservers = [1, {host='h', password='hunter2'}, [{token='hunter2'}]]\n"
        "url = 'amqp://user:hunter2@host/x'"
    )
    loaded = load_settings()
    assert "hunter2" not in str(loaded.rows())
    assert shown(loaded)["bus.options.servers.1.host"][0] == "h"
    assert shown(loaded)["bus.options.url"][0] == "amqp://********@host/x"


@pytest.mark.parametrize("name", ["path", "partitions", "host", "objects", "driver", "timeout"])
def test_other_options_are_shown(name: str) -> None:
    assert not is_secret(f"bus.options.{name}")


def test_a_value_that_does_not_fit_is_not_repeated(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "hunter2")
    write("[bus]\ndrain_timeout = '${PASSWORD}'")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "bus.drain_timeout" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[bus]\n\ndrivr = 'x'", ", line 3: unknown setting 'bus.drivr'; did you mean 'driver'?"),
        ("[buss]\ndriver='x'", ", line 1: unknown setting 'buss'; did you mean 'bus'?"),
        ("bus.drivr = 'x'", ", line 1: unknown setting 'bus.drivr'; did you mean 'driver'?"),
        ("bus = { drivr = 'x' }", ", line 1: unknown setting 'bus.drivr'"),
        (
            "[mesh]\nwhatever = 1",
            "unknown setting 'mesh.whatever'; known settings: data_dir, interceptors, name",
        ),
        (
            "[[handlers]]\ntopic='a'\ncall='m:f'\n[[handlers]]\ntopic='b'\ncall='m:f'\natempts=1",
            ", line 7: unknown setting 'handlers.1.atempts'; did you mean 'attempts'?",
        ),
        ("[[handlers]]\ntopic='a'", ", line 1: handlers.0.call: Field required"),
        (
            "[bus]\ndrain_timeout = -1",
            ", line 2: bus.drain_timeout: Input should be greater than or equal to 0",
        ),
        ("[bus]\ndrain_timeout = nan", ", line 2: bus.drain_timeout"),
        ("[bus]\noptions = 3", ", line 2: bus.options"),
        ("bus = 3", ", line 1: bus"),
        ("handlers = 'x'", ", line 1: handlers"),
        ("[[handlers]]\ntopic='a'\ncall='m:f'\npriorities=['urgent']", "line 4: handlers.0.priorities.0"),
        ("[plugins]\nallow='kafka'", "line 2: plugins.allow"),
        ("[bus]\ndriver = \nname = 1", "is not TOML: Invalid value (at line 2"),
        ("[bus]\ndriver = 'a'\ndriver = 'b'", "is not TOML"),
        ('mesh.name = "a\\u0000b"', "mesh.name contains a NUL character"),
        ('bus.options."a\\u0000b" = 1', "a name in 'bus.options' contains a NUL character"),
        ("bus.options.x = " + "9" * 5000, "cannot be read"),
        ("bus.options.x = 0x" + "f" * 5000, "is an integer of more than 64 bits"),
        ("bus.options.x = " + "[" * 40 + "]" * 40, "nested more than 32 levels"),
        ("bus.options.x = " + "[" * 100_000, "nested more than 32 levels"),
        ("bus.options.x = " + "{a=" * 100_000, "nested more than 32 levels"),
        (".".join(["a"] * 400_000) + " = 1", "a key has more than 32 parts"),
        ("[" + ".".join(["'a'"] * 100_000) + "]", "a key has more than 32 parts"),
        ("x = " + '"' * 400_001, "not TOML"),
        ("# " + "x" * 1_000_001, "larger than 1,000,000 bytes"),
    ],
    ids=lambda value: str(value)[:50],
)
@pytest.mark.timeout(20)
def test_a_bad_file_says_what_and_where(write: Write, text: str, says: str) -> None:
    write(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value).startswith("dimesh.toml")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_all_that_is_wrong_is_said_at_once(write: Write) -> None:
    write("[bus]\ndrivr = 1\ndrain_timeout = 'x'\n[mesh]\nnme = 2")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.timeout(20)
@pytest.mark.slow
def test_a_file_with_very_many_mistakes_is_refused_soon_and_briefly(write: Write) -> None:
    write("\n".join(f"a{n} = 1" for n in range(60_000)))
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert len(str(caught.value).splitlines()) == 21
    assert str(caught.value).endswith("and 59980 more")


@pytest.mark.parametrize("value", ["${hunter2", "a${b-hunter2}", "${}hunter2"])
def test_a_malformed_reference_is_not_repeated(write: Write, value: str) -> None:
    write(f"[bus.options]\npassword = '{value}'")
    with pytest.raises(ConfigurationError, match="a reference must have the form") as caught:
        load_settings()
    assert "bus.options.password" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_what_is_no_text_file(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"not UTF-8 \(byte 0\)"):
        load_settings("bytes.toml")
    for path in ["missing.toml", ".", "a\0b", "x" * 10_000, "/dev/zero", "🦜.toml"]:
        with pytest.raises(ConfigurationError):
            load_settings(path)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("DIMESH_BUSS__DRIVER", "x", "DIMESH_BUSS__DRIVER is not a setting; did you mean DIMESH_BUS__…?"),
        ("DIMESH_WHATEVER", "x", "DIMESH_WHATEVER is not a setting"),
        ("DIMESH_BUS__DRIVR", "x", "DIMESH_BUS__DRIVR: unknown setting 'bus.drivr'; did you mean 'driver'?"),
        (
            "DIMESH_BUS__DRAIN_TIMEOUT",
            "soon",
            "DIMESH_BUS__DRAIN_TIMEOUT: bus.drain_timeout: Input should be a",
        ),
        ("DIMESH_HANDLERS", '[{"topic": "t"}]', "DIMESH_HANDLERS: handlers.0.call: Field required"),
        ("DIMESH_HANDLERS__0__TOPIC", "t", "handlers"),
        ("DIMESH_BUS", "{", "cannot be read"),
        ("DIMESH_BUS", '{"options": ' + '{"a":' * 100 + "1" + "}" * 101, "nested more than 32 levels"),
        ("DIMESH_BUS", '{"options": ' + "[" * 50_000, ""),
        ("DIMESH_BUS", '{"options": {"x": "\\u0000"}}', "bus.options.x contains a NUL character"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_bad_variable_is_named(
    write: Write, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    write("[bus]\ndriver = 'memory'")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert says in str(caught.value)
    assert "dimesh.toml" not in str(caught.value)


def test_bad_arguments_are_refused_like_the_rest() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for given_ in (
        {"bus": {"drivr": 1}},
        {"nothing": 1},
        {"bus": {"options": deep}},
        {"mesh": {"name": "a\0"}},
    ):
        with pytest.raises(ConfigurationError):
            load_settings(**given_)
    while deep:  # taken apart level by level
        deep = deep["a"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.sampled_from([*MeshSettings.model_fields, "driver", "options", "topic"]) | st.text(max_size=8)


@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
)
@pytest.mark.slow
def test_any_file_is_settings_or_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any.toml").write_bytes(content)
    try:
        load_settings("any.toml").rows()
    except ConfigurationError:
        pass


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sections=st.dictionaries(NAMES, VALUES | st.dictionaries(NAMES, VALUES, max_size=3), max_size=3))
@pytest.mark.slow
def test_any_values_are_settings_or_a_configuration_error(sections: dict[str, Any]) -> None:
    sections.pop("path", None)
    try:
        loaded = load_settings(None, **sections)
    except ConfigurationError:
        return
    for key, value, origin in loaded.rows():
        assert isinstance(key, str)
        assert isinstance(value, str)
        assert origin in ("argument", "default")


@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    options=st.dictionaries(
        st.text("abcxyz_", min_size=1, max_size=8),
        st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
        | st.integers(-(2**63), 2**63 - 1),
        max_size=5,
    )
)
def test_options_reach_the_driver_as_they_stand(tmp_path: Path, options: dict[str, Any]) -> None:
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in options.items()]
    text = "[bus.options]\n" + "\n".join(lines).replace("${", "$${")
    (tmp_path / "options.toml").write_text(text, "utf-8")
    assert load_settings("options.toml").settings.bus.options == options


def test_a_secret_that_is_no_text_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "dimesh.toml"
    file.write_text('[registry.serve.users]\nshop = { password = "hunter2" }\n', "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file)
    text = str(caught.value)
    assert "registry.serve.users.shop: Input should be a valid string" in text
    assert len(text.splitlines()) == 1
    assert "hunter2" not in text
