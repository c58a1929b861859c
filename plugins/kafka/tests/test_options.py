"""Every misconfiguration has its own clear error, and no error shows a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBusFactory
from dimesh.capabilities import Capability, Support
from dimesh.errors import ConfigurationError

HOST = "127.0.0.1:9092"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "bootstrap_servers"),
        ({"bootstrap_servers": "kafka"}, "host:port"),
        ({"bootstrap_servers": "kafka:99999"}, "host:port"),
        ({"bootstrap_servers": "a:1,,b:2"}, "host:port"),
        ({"bootstrap_server": HOST}, "no option 'bootstrap_server'"),
        ({"bootstrap_servers": HOST, "compression": "zip"}, "compression"),
        ({"bootstrap_servers": HOST, "partition_by": "colour"}, "partition_by"),
        ({"bootstrap_servers": HOST, "partitions": 0}, "partitions: expected .int. >= 1"),
        ({"bootstrap_servers": HOST, "max_queued": 0}, "max_queued"),
        ({"bootstrap_servers": HOST, "session_timeout": 0}, "session_timeout"),
        ({"bootstrap_servers": HOST, "heartbeat_interval": 9.0}, "a third of session_timeout"),
        ({"bootstrap_servers": HOST, "internal": "a.b"}, "internal"),
        ({"bootstrap_servers": HOST, "tls_ca": "/ca.pem"}, "set tls = true"),
        ({"bootstrap_servers": HOST, "tls": True, "tls_ca": "/no/such.pem"}, "tls_ca: cannot read"),
        ({"bootstrap_servers": HOST, "tls": True, "tls_key": "k"}, "without tls_cert"),
        ({"bootstrap_servers": HOST, "tls": True, "tls_cert": "/no/such.pem"}, "tls_cert: cannot use"),
        ({"bootstrap_servers": HOST, "sasl_username": "u"}, "without sasl_mechanism"),
        ({"bootstrap_servers": HOST, "sasl_mechanism": "SCRAM-SHA-512"}, "needs sasl_username"),
        ({"bootstrap_servers": HOST, "sasl_mechanism": "GSSAPI"}, "sasl_mechanism"),
        (
            {
                "bootstrap_servers": HOST,
                "sasl_mechanism": "PLAIN",
                "sasl_username": "u",
                "sasl_password": "hunter2",
            },
            "sends the password unencrypted",
        ),
        ({"bootstrap_servers": HOST, "sasl_mechanism": "OAUTHBEARER"}, "oauth_token_file or oauth_token_url"),
        (
            {"bootstrap_servers": HOST, "sasl_mechanism": "OAUTHBEARER", "oauth_token_url": "https://x"},
            "oauth_client_id",
        ),
        (
            {
                "bootstrap_servers": HOST,
                "sasl_mechanism": "OAUTHBEARER",
                "oauth_token_url": "http://example.org",
                "oauth_client_id": "i",
                "oauth_client_secret": "hunter2",
            },
            "https://",
        ),
    ],
)
def test_a_wrong_option(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        EventBusFactory.create("kafka", **options)
    assert "hunter2" not in str(caught.value)


def test_a_key_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("no certificate")
    with pytest.raises(ConfigurationError, match="tls_cert"):
        EventBusFactory.create("kafka", bootstrap_servers=HOST, tls=True, tls_cert=str(tmp_path / "c.pem"))


def test_secrets_are_not_shown() -> None:
    bus = EventBusFactory.create(
        "kafka",
        bootstrap_servers=HOST,
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="u",
        sasl_password="hunter2",
    )
    assert "hunter2" not in repr(bus.door._backend.options)  # type: ignore[attr-defined]


def test_both_ways_to_make_a_bus() -> None:
    from dimesh import KafkaEventBus

    made = KafkaEventBus(HOST, consumer_group="growth")
    also = EventBusFactory.create("kafka", bootstrap_servers=HOST, consumer_group="growth")
    assert made.door.name == also.door.name == "kafka"
    assert made.capabilities == also.capabilities


@pytest.mark.parametrize("rule", ["key", "event", "pillar", "tenant"])
def test_a_partly_supported_rule_states_its_condition(rule: str) -> None:
    capabilities = EventBusFactory.create("kafka", bootstrap_servers=HOST, partition_by=rule).capabilities
    whole = capabilities[Capability.KEY_ORDER] is Support.FULL
    assert whole == (rule == "key") == (capabilities.note(Capability.KEY_ORDER) == "")
