"""Lines of the log: whatever is logged is one line, JSON stays JSON, and no secret of a library is in it."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from typing import Any

import pytest

from dimesh.logs.foreign import Levels, redact
from dimesh.logs.lines import MAX_MESSAGE, MAX_TRACEBACK, HumanLines, JsonLines
from dimesh.logs.values import MAX_ITEMS, clean
from dimesh.secrets import MASK, Secret


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError("not to be shown")

    def __str__(self) -> str:
        sys.exit("nor this")


class Lying(str):
    def __len__(self) -> int:
        return -1

    def __str__(self) -> str:
        raise RuntimeError


class HostileDict(dict[Any, Any]):
    def items(self) -> Any:
        raise RuntimeError

    def __iter__(self) -> Any:
        raise RuntimeError


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


circle: list[Any] = []
circle.append(circle)

HOSTILE: dict[str, Any] = {
    "newline": 'a\n{"level": "INFO"}',
    "separators": "\u2028\u2029\x85\x0b\x0c\r",
    "escape": "\x1b[2J\x9b2J",
    "surrogate": "\ud800",
    "right to left": "\u202egnp.exe",
    "percent": "%s %d %(message)s {0.__class__}",
    "long": "x" * 5_000_000,
    "nan": math.nan,
    "infinite": [math.inf, -math.inf],
    "large integer": 10**30,
    "integer without text": 10**5_000,
    "bytes": b"\xff\x00\n",
    "key that is a tuple": {(1, 2): 3, None: 4, 1: 5, "1": 6},
    "key that cannot be shown": {Unspeakable(): 1},
    "circle": circle,
    "deep": deep(3_000),
    "wide": {str(n): [n] * 100 for n in range(10_000)},
    "no repr": Unspeakable(),
    "lying string": Lying("x"),
    "hostile dict": HostileDict(a=1),
    "password": "hunter2",
    "nested": {"api_key": ["hunter2"], "headers": {"Set-Cookie": "hunter2"}},
    "secret": Secret("hunter2"),
    "set": {1},
}


def record(template: object, /, *args: object, logger: str = "dimesh.bus", **more: Any) -> logging.LogRecord:
    made = logging.LogRecord(logger, logging.WARNING, "f.py", 1, template, args, None)
    made.__dict__.update(more)
    return made


def raised(error: BaseException) -> Any:
    try:
        raise error
    except BaseException:
        return sys.exc_info()


@pytest.mark.parametrize("name", list(HOSTILE))
def test_every_record_is_one_line_of_json(name: str) -> None:
    value = HOSTILE[name]
    began = time.process_time()
    for made in (
        record("a value: %s", value),
        record(value),
        record("%d of %s", value),
        record("too few %s %s", value),
        record("as a field", **{name: value}),
        record("a failure", exc_info=raised(ValueError(value))),
    ):
        line = JsonLines().format(made)
        assert line.isascii()
        assert line.isprintable()
        assert len(line) < 250_000
        said = json.loads(line, parse_constant=pytest.fail)
        assert (said["level"], said["logger"]) == ("WARNING", "dimesh.bus")
        for text in (line, HumanLines().format(made)):
            first, *rest = text.split("\n")
            assert first.isprintable()
            assert all(each.startswith("  ") and each.isprintable() for each in rest)
        assert len(HumanLines().format(made)) < 250_000
    assert time.process_time() - began < 5.0


def test_fields_cannot_replace_those_of_the_record() -> None:
    said = json.loads(JsonLines().format(record("m %s", 1, level="x", time="y", user="z", host="w")))
    assert (said["level"], said["message"], said["logger"]) == ("WARNING", "m 1", "dimesh.bus")
    assert said["fields"] == {"level": "x", "time": "y", "user": "z", "host": "w"}


def test_clean_keeps_what_json_can_express() -> None:
    value = {"a": [1, 2.5, None, True, "x"], "b": {"c": "\N{SNOWMAN}"}}
    assert clean(value) == value
    assert clean({1: "x", "1": "y"}) == {"1": "x", "1'": "y"}
    assert clean(math.nan) == "nan"
    assert clean({"password": "x", "n": Secret("y")}) == {"password": MASK, "n": MASK}
    assert len(clean(list(range(1_000)))) == MAX_ITEMS + 1
    assert clean(list(range(1_000)))[-1] == "… 900 more"


def test_long_messages_and_tracebacks_are_cut() -> None:
    said = json.loads(
        JsonLines().format(record("x" * 1_000_000, exc_info=raised(ValueError("y" * 1_000_000))))
    )
    assert len(said["message"]) < MAX_MESSAGE + 50
    assert len(said["exception"]) < MAX_TRACEBACK + 50


def test_a_value_of_a_million_million_parts_is_bounded() -> None:
    bush: Any = "x"
    for _ in range(6):
        bush = [bush] * 100
    for made in (record("%s", bush), record(bush), record("%(a)s", {"a": bush}), record("field", a=bush)):
        assert "more" in JsonLines().format(made)
        assert len(JsonLines().format(made)) < 20_000
        assert len(HumanLines().format(made)) < 20_000


def test_fields_under_names_of_secrets_are_masked() -> None:
    made = record("in %s", {"token": "hunter2"}, password="hunter2", nested={"api_key": ["hunter2"]})
    assert "hunter2" not in JsonLines().format(made) + HumanLines().format(made)


# -- libraries -------------------------------------------------------------------------------------

LEAKS = [
    ("httpx", 'HTTP Request: GET https://me:hunter2@api.example.com/v1?key=hunter2&page=2 "HTTP/1.1 200 OK"'),
    ("urllib3.connectionpool", 'https://api.example.com:443 "GET /v1/rows?q=hunter2 HTTP/1.1" 200 None'),
    ("httpcore.http11", "receive_response_headers.complete return_value=(b'HTTP/1.1', 200, [(b'Set-Cookie', b'hunter2; Path=/')])"),
    ("aiokafka.conn", "SaslAuthenticateRequest_v0(sasl_auth_bytes=b'\\x00user\\x00hunter2')"),
    ("some.library", "{'password': 'hunter2', \"api_key\": \"hunter2\", 'n': 1} token=hunter2, secret: hunter2"),
    ("some.library", "Authorization: Bearer hunter2hunter2 and authorization='Basic hunter2hunter2=='"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), LEAKS)
def test_secrets_in_records_of_libraries_are_masked(name: str, text: str) -> None:
    for made in (
        record("%s", text, logger=name),
        record("x", logger=name, exc_info=raised(ValueError(text))),
    ):
        for line in (JsonLines().format(made), HumanLines().format(made)):
            assert "hunter2" not in line
            assert MASK in line


def test_what_is_no_secret_stays() -> None:
    text = "connected to https://broker.example.com:9092/topics as client_id=shop, attempt: 3, key order 7"
    assert redact(text) == text


def test_which_records_are_shown() -> None:
    levels = Levels(
        {"dimesh": logging.INFO, "shop": logging.DEBUG, "httpx": logging.INFO, "aiokafka": logging.DEBUG,
         "google.auth": logging.DEBUG, "stripe": logging.DEBUG}
    )  # fmt: skip

    def shown(name: str, level: int) -> bool:
        return levels.filter(logging.LogRecord(name, level, "", 0, "", (), None))

    assert shown("dimesh.bus.kafka", logging.INFO)
    assert not shown("dimesh.bus", logging.DEBUG)
    assert shown("shop.orders", logging.DEBUG)
    assert shown("httpx", logging.INFO)
    assert not shown("httpcore.http11", logging.INFO)
    assert not shown("shopping", logging.INFO)
    assert shown("urllib3", logging.WARNING)
    # The settings name these, and what they would write is secret.
    assert shown("aiokafka.consumer", logging.DEBUG)
    assert not shown("aiokafka.conn", logging.DEBUG)
    assert not shown("google.auth.transport", logging.INFO)
    assert not shown("google.pubsub_v1.client", logging.DEBUG)
    assert not shown("stripe", logging.DEBUG)
    assert shown("stripe", logging.INFO)
