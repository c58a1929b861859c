"""A test of a kit that hangs ends, and says where it hung."""

from __future__ import annotations

import asyncio

import pytest

from dimesh_contracts import limit
from dimesh_contracts.bus import BusGuarantee
from dimesh_contracts.contract import DEADLINE, Contract, proves
from dimesh_contracts.limit import DeadlineError, within


async def waits_for_ever() -> None:
    await asyncio.Event().wait()


async def test_what_hangs_is_shown() -> None:
    helper = asyncio.create_task(waits_for_ever(), name="the helper")
    with pytest.raises(DeadlineError) as caught:
        await within(0.05, waits_for_ever())
    assert "did not end within 0.05 s" in str(caught.value)
    assert str(caught.value).count("await asyncio.Event().wait()") == 2
    assert "the helper" in str(caught.value)
    assert "the test" in str(caught.value)
    helper.cancel()
    await asyncio.wait({helper})


async def test_what_ignores_its_cancellation_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "GRACE", 0.05)
    finish = asyncio.Event()

    async def stubborn() -> None:
        while not finish.is_set():
            try:
                await finish.wait()
            except asyncio.CancelledError:
                pass

    with pytest.raises(DeadlineError, match="It also ignored its cancellation"):
        await within(0.05, stubborn())
    finish.set()
    await asyncio.sleep(0)


async def test_a_test_that_ends_keeps_its_outcome() -> None:
    async def fails() -> None:
        raise ValueError("as it was")

    async def skips() -> None:
        pytest.skip("not offered: as it was")

    with pytest.raises(ValueError, match="as it was"):
        await within(5, fails())
    with pytest.raises(pytest.skip.Exception, match="as it was"):
        await within(5, skips())


async def test_the_deadline_follows_the_patience_of_the_class() -> None:
    class Kit(Contract):
        patience = 0.05 / DEADLINE

        @proves(BusGuarantee.CLOSED)
        async def test_hangs(self) -> None:
            await waits_for_ever()

    with pytest.raises(DeadlineError, match=r"did not end within 0\.05 s"):
        await Kit().test_hangs()
