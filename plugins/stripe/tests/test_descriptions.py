"""The descriptions of the objects: the content of the file, and that rows match it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import stripe
from jsonschema import Draft202012Validator

from dimesh import EventBusFactory, LocalSchemaRegistry, SourceConnector
from dimesh.errors import SourceObjectError
from dimesh.spi.cdc import Change
from dimesh_contracts.waiting import until
from dimesh_stripe import descriptions
from dimesh_stripe.descriptions import declared
from dimesh_stripe.descriptions.__main__ import generate, main, text
from dimesh_stripe.options import API_VERSION
from dimesh_stripe.resources import RESOURCES
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.source import StripeSource
from dimesh_stripe.v2 import V2

OBJECTS = {*RESOURCES, *V2} - {"customer_source", "external_account"}
"""Rows of the other two are of several types."""
FILE = Path(descriptions.__file__).with_name(descriptions.FILE)


def test_the_file_has_the_api_version_of_snapshots() -> None:
    assert descriptions.described()["api_version"] == API_VERSION
    assert set(descriptions.described()["objects"]) == OBJECTS


def test_the_file_is_up_to_date() -> None:
    if stripe.api_version != API_VERSION:
        pytest.skip(f"the installed SDK has the API version {stripe.api_version}")
    assert FILE.read_text("utf-8") == text(generate())
    assert FILE.with_name(descriptions.DECLARED).read_text("utf-8") == text(declared.generate())


def test_the_generator_knows_every_object(capsys: pytest.CaptureFixture[str]) -> None:
    """It works with any SDK, and writes nothing if the SDK has another version."""
    made = generate()
    assert made["api_version"] == stripe.api_version
    assert set(made["objects"]) == OBJECTS
    customer = made["objects"]["customer"]
    assert customer["id"] == "string"
    assert customer["email"] == ["string", "null"]
    assert customer["address"] == ["object", "null"]
    assert customer["default_source"] == ["string", "object", "null"]
    assert customer["preferred_locales"] == ["array", "null"]
    assert made["objects"]["price"]["unit_amount_decimal"] == ["string", "null"]
    if stripe.api_version != API_VERSION:
        before = FILE.read_bytes()
        assert main() == 1
        assert API_VERSION in capsys.readouterr().err
        assert FILE.read_bytes() == before


@pytest.mark.parametrize("name", ["customer", "balance_transaction", *V2])
async def test_rows_are_as_described(
    sandbox: StripeSandbox, new_source: Callable[..., StripeSource], name: str
) -> None:
    source = new_source()
    await source.open()
    described = await source.schema(name)
    assert described is not None
    Draft202012Validator.check_schema(described)
    assert (described["title"], described["required"]) == (name, ["id"])
    if name in V2:
        sandbox.v2.create(name, {})
    else:
        sandbox.account.create(name, {})
    (row,) = [c.after async for b in source.snapshot(name, None) for c in b.items if isinstance(c, Change)]
    assert row is not None
    assert row.keys() <= described["properties"].keys()
    problems = [error.message for error in Draft202012Validator(described).iter_errors(row)]
    assert problems == []
    await source.close()


async def test_an_unknown_object(new_source: Callable[..., StripeSource]) -> None:
    with pytest.raises(SourceObjectError, match="nobody_has_this"):
        await new_source().schema("nobody_has_this")


def test_the_sdk_is_not_needed_to_capture() -> None:
    program = (
        "import asyncio, sys\n"
        "from dimesh.clock import SystemClock\n"
        "from dimesh_stripe.options import StripeOptions\n"
        "from dimesh_stripe.source import StripeSource\n"
        "from dimesh.secrets import Secret\n"
        "source = StripeSource(StripeOptions(api_key=Secret('sk_test_sandbox'), ledger=''), SystemClock())\n"
        "assert asyncio.run(source.schema('customer'))\n"
        "assert 'stripe' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_a_connector_registers_what_it_captures(
    sandbox: StripeSandbox, new_source: Callable[..., StripeSource]
) -> None:
    async with LocalSchemaRegistry() as registry, EventBusFactory.create("memory") as bus:
        connector = SourceConnector("billing", new_source(), bus, "Growth Engine", registry=registry)
        await connector.start(["customer"])
        await until(lambda: connector.get_status()["objects"]["customer"]["phase"] == "stream")
        found = (await registry.get_schema("cdc.stripe.customer")).schema
        assert found["properties"]["email"] == {"type": ["string", "null"]}
        await connector.disconnect()
