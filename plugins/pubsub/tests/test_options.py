"""Options: invalid values are refused with a clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBus, EventBusFactory, PubSubEventBus
from dimesh.clock import SystemClock
from dimesh.errors import BusError, ConfigurationError
from dimesh.options import parse_options
from dimesh_pubsub.backend import PubSubBackend
from dimesh_pubsub.options import PubSubOptions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "project_id"),
        ({"project_id": "My Project"}, "project_id: expected .str. matching regex"),
        ({"project_id": "p", "endpoint": "https://x"}, "endpoint must be host:port"),
        ({"project_id": "p", "emulator_host": "localhost:99999"}, "emulator_host must be host:port"),
        ({"project_id": "p", "lease": 5}, r"lease: expected .float. >= 10\.0"),
        ({"project_id": "p", "retention": 60}, r"retention: expected .float. >= 600\.0"),
        ({"project_id": "p", "dead_letter_after": 2}, "dead_letter_after: expected .int. >= 5"),
        ({"project_id": "p", "batch_messages": 2_000}, "batch_messages: expected .int. <= 1000"),
        ({"project_id": "p", "prefetch": 0}, "prefetch: expected .int. >= 1"),
        ({"project_id": "p", "order_by": "colour"}, "order_by"),
        ({"project_id": "p", "projekt": "p"}, "no option 'projekt'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_options(PubSubOptions, options, "bus 'pubsub'")


def test_factory_and_class_make_the_same() -> None:
    made = EventBusFactory.create("pubsub", project_id="p", order_by="none")
    own = PubSubEventBus("p", order_by="none", consumer_group="g")
    assert isinstance(made, EventBus)
    for bus in (made, own):
        assert isinstance(bus.door._backend, PubSubBackend)
        assert bus.door._backend.options.order_by == "none"


async def test_an_unreachable_server() -> None:
    options = {"project_id": "p", "emulator_host": "127.0.0.1:1", "request_timeout": 0.5}
    backend = PubSubBackend(parse_options(PubSubOptions, options, "bus 'pubsub'"), SystemClock())
    with pytest.raises(BusError, match=r"no answer.*PUBSUB_EMULATOR_HOST"):
        await backend.open()


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PUBSUB_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    bad = tmp_path / "key.json"
    bad.write_text('{"type": "service_account", "private_key": "SECRET-THING"}')
    for options, said in (
        ({"credentials_file": str(tmp_path / "none.json")}, "none.json"),
        ({"credentials_file": str(bad)}, "key.json"),
    ):
        backend = PubSubBackend(
            parse_options(PubSubOptions, {"project_id": "p", **options}, "bus 'pubsub'"), SystemClock()
        )
        with pytest.raises(ConfigurationError, match=said) as caught:
            await backend.open()
        assert "SECRET-THING" not in str(caught.value)
