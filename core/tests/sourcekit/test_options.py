"""The options that sources have in common: ranges are declared, and an error shows its prefix once."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from msgspec import Meta

from dimesh.errors import ConfigurationError
from dimesh.options import parse_options
from dimesh.secrets import Secret
from dimesh.sourcekit.options import SourceOptions, check_origin


class AcmeOptions(SourceOptions, frozen=True, kw_only=True):
    token: Secret
    url: str = "https://api.acme.example"
    page: Annotated[int, Meta(ge=1, le=50)] = 50

    def __post_init__(self) -> None:
        check_origin("url", self.url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 0.0),
        ("rate", float("nan")),
        ("concurrency", 0),
        ("concurrency", 101),
        ("page", 51),
        ("timeout", 0.0),
        ("timeout", 601.0),
        ("retry_for", -1.0),
        ("url", "http://api.acme.example"),
        ("url", "https://ada:s3cr3t@api.acme.example"),
        ("rat", 1.0),
    ],
)
def test_values_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as failed:
        parse_options(AcmeOptions, {"token": "t0ken-value", name: value}, "source 'acme'")
    text = str(failed.value)
    assert text.count("source 'acme'") == 1
    assert name in text
    assert "t0ken-value" not in text
    assert "s3cr3t" not in text


def test_a_subclass_has_its_own_range_and_default() -> None:
    parsed = parse_options(AcmeOptions, {"token": "t0ken-value", "timeout": 5}, "source 'acme'")
    assert (parsed.page, parsed.timeout, parsed.rate) == (50, 5.0, 20.0)
    assert "t0ken-value" not in repr(parsed)
