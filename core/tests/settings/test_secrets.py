"""A secret is not shown by accident, and one rule decides which names hold one."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from dimesh.errors import ConfigurationError
from dimesh.lineage.redact import clean, summary
from dimesh.options import Options, parse_options
from dimesh.secrets import MASK, Secret, is_secret, mask_urls, reveal_secrets, wrap_secrets
from dimesh.settings import load_settings

VALUE = "hunter2-ünïcode"


def test_the_value_is_shown_only_on_request() -> None:
    secret = Secret(VALUE)
    assert secret.reveal() == VALUE
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", "%s %r" % (secret, secret)):  # noqa: UP031
        assert VALUE not in text
        assert MASK in text


@pytest.mark.parametrize(
    "encode",
    [
        pickle.dumps,
        json.dumps,
        msgspec.json.encode,
        msgspec.msgpack.encode,
        msgspec.to_builtins,
        lambda secret: json.dumps({"nested": [secret]}),
    ],
)
def test_it_cannot_be_encoded_by_accident(encode: Any) -> None:
    with pytest.raises(TypeError):
        encode(Secret(VALUE))


def test_equality_hash_truth_and_copies() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert Secret("a")
    assert not Secret("")
    assert copy.deepcopy(Secret("a")) == copy.copy(Secret("a")) == Secret("a")
    with pytest.raises(TypeError, match="not from int"):
        Secret(5)  # type: ignore[arg-type]


class Login(BaseModel):
    password: Secret
    others: list[Secret] = []


def test_as_a_pydantic_type() -> None:
    login = Login.model_validate({"password": VALUE, "others": [VALUE]})
    assert login.password.reveal() == login.others[0].reveal() == VALUE
    assert Login(password=Secret(VALUE)).password.reveal() == VALUE
    assert VALUE not in repr(login)
    assert json.loads(login.model_dump_json()) == {"password": MASK, "others": [MASK]}
    assert login.model_dump()["password"] == Secret(VALUE)
    with pytest.raises(ValueError, match="valid string"):
        Login.model_validate({"password": 5})


class DriverOptions(Options, frozen=True):
    api_key: Secret
    password: Secret | None = None
    webhook_secrets: list[Secret] = []
    port: int = 0
    mode: str = "x"
    token_file: str = ""
    url: str = ""

    def __post_init__(self) -> None:
        if self.mode != "x":
            raise ConfigurationError(f"mode must be x, not {self.mode!r} ({self.api_key.reveal()})")


def test_as_fields_of_driver_options() -> None:
    given = {"api_key": VALUE, "webhook_secrets": ["one", Secret("two")], "port": "5", "token_file": "t"}
    for values in (given, wrap_secrets(given)):
        options = parse_options(DriverOptions, values, "bus 'toy'")
        assert options.api_key.reveal() == VALUE
        assert options.password is None
        assert [secret.reveal() for secret in options.webhook_secrets] == ["one", "two"]
        assert options.port == 5
        assert options.token_file == "t"


def test_options_do_not_show_secrets() -> None:
    options = DriverOptions(api_key=Secret(VALUE), token_file="path", url="amqp://user:hunter2@host/x")
    assert "hunter2" not in repr(options)
    assert "path" not in repr(options)
    assert "amqp://********@host/x" in repr(options)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"mode": "y"}, "source 'billing' (toy): mode must be x, not 'y' (********)"),
        ({"api_key": 5}, "source 'billing' (toy): api_key: expected `str`, got `int`"),
        (
            {"prt": 1},
            "source 'billing' (toy): there is no option 'prt'; did you mean 'port'? options: api_key, ",
        ),
        ({"port": VALUE}, "source 'billing' (toy): port: expected `int`, got `str`"),
    ],
)
def test_an_option_error_names_the_source_once_and_no_secret(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_options(DriverOptions, {"api_key": VALUE, **more}, "source 'billing' (toy)")
    assert str(caught.value).startswith(says)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


NOT_SECRET = [
    "author",
    "co_authors",
    "max_tokens",
    "total_tokens",
    "primary_key",
    "ordering_key",
    "spin",
    "keyboard",
]


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apiKey",
        "Authorization",
        "session-id",
        "card_number",
        "PIN",
        "cvv",
        "refresh_token",
        "a.dsn.b",
    ],
)
def test_the_rule_for_names_is_the_same_everywhere(name: str) -> None:
    assert is_secret(name)
    assert clean({name: VALUE}) == {name: MASK}
    assert summary({name: VALUE})["keys"][name]["redacted"]
    assert isinstance(wrap_secrets({name: VALUE})[name], Secret)


@pytest.mark.parametrize("name", NOT_SECRET)
def test_harmless_names(name: str) -> None:
    assert not is_secret(name)
    assert clean({name: "shown"}) == {name: "shown"}


def test_wrapping_reaches_nested_values_and_can_be_undone() -> None:
    given = {"servers": [{"host": "h", "password": VALUE}], "credentials": {"user": ["u"]}, "n": 1}
    wrapped = wrap_secrets(given)
    assert VALUE not in str(wrapped)
    assert wrapped["servers"][0]["host"] == "h"
    assert wrapped["credentials"]["user"] == [Secret("u")]
    assert reveal_secrets(wrapped) == given
    assert wrap_secrets(wrapped) == wrapped


def test_settings_hold_secrets_as_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", VALUE)
    file = tmp_path / "dimesh.toml"
    file.write_text(
        '[bus.options]\npassword = "hunter2"\n[[sources]]\ndriver = "stripe"\nname = "billing"\n'
        'objects = ["customer"]\noptions = { api_key = "${KEY}", webhook_secrets = ["${KEY}"], poll = 1.0 }\n',
        "utf-8",
    )
    settings = load_settings(file).settings
    assert settings.bus.options == {"password": Secret("hunter2")}
    assert settings.sources[0].options == {
        "api_key": Secret(VALUE),
        "webhook_secrets": [Secret(VALUE)],
        "poll": 1.0,
    }
    assert "hunter2" not in str(settings.sources[0].options) + repr(settings)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("amqp://user:hunter2@host/x", "amqp://********@host/x"),
        ("amqp://user:hun@ter2@host/x", "amqp://********@host/x"),
        ("see https://host/a@b?x=1&token=hunter2#f", "see https://host/a@b?x=1&token=********#f"),
        ("no address: a@b?token=x", "no address: a@b?token=x"),
    ],
)
def test_logins_and_secret_parameters_of_urls_are_masked(text: str, masked: str) -> None:
    assert mask_urls(text) == masked
