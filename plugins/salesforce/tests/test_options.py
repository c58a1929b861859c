"""Options that cannot work are refused before any request."""

from __future__ import annotations

from typing import Any

import pytest

from dimesh.errors import ConfigurationError
from dimesh.options import parse_options
from dimesh_salesforce.options import SalesforceOptions

GOOD = {"instance_url": "https://company.my.salesforce.com", "access_token": "s3cr3t-token"}


def parse(**more: Any) -> SalesforceOptions:
    given = {key: value for key, value in {**GOOD, **more}.items() if value is not None}
    return parse_options(SalesforceOptions, given, "source 'salesforce'")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"instance_url": "company.my.salesforce.com"}, "instance_url"),
        ({"instance_url": "http://company.my.salesforce.com"}, "https"),
        ({"instance_url": "https://company.my.salesforce.com/x"}, "path"),
        ({"plaintext": True}, "sandbox on this machine"),
        ({"api_version": "66"}, "66.0"),
        ({"access_token": None}, "credentials are missing"),
        ({"access_token": None, "client_secret": "x"}, "client_id"),
        ({"access_token": None, "client_id": "x", "private_key": "k"}, "username"),
        ({"client_id": "x", "client_secret": "s", "private_key": "k", "username": "u"}, "different kinds"),
        ({"client_id": "x", "private_key": "k", "private_key_file": "f", "username": "u"}, "not both"),
        ({"channels": {"Sales__chn": ["Account"]}}, "/data/"),
        ({"channels": {"/data/Sales__chn": []}}, "/data/Sales__chn"),
        ({"page": 2_001}, "page"),
        ({"silence": 0}, "silence"),
        ({"nobody": 1}, "nobody"),
    ],
)
def test_options_that_cannot_work(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as failed:
        parse(**wrong)
    assert "s3cr3t" not in str(failed.value)


def test_secrets_are_not_shown() -> None:
    secret = {"client_id": "app", "username": "u", "private_key": "s3cr3t-key"}
    assert "s3cr3t" not in repr(parse(**secret))
    assert "s3cr3t" not in repr(parse(client_id="app", client_secret="s3cr3t-secret"))


def test_a_missing_key_file() -> None:
    with pytest.raises(ConfigurationError, match="private_key_file"):
        parse(access_token=None, client_id="x", username="u", private_key_file="/nowhere/key.pem").key()
