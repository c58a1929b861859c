"""What a source says of itself and of its objects."""

from __future__ import annotations

import pytest

from dimesh.capabilities import Capability
from dimesh.errors import SourceObjectError
from dimesh.spi.cdc import CDCSource, Describes
from dimesh_contracts.cdc.guarantees import CDCGuarantee as G
from dimesh_contracts.cdc.harness import CDCHarness, NewSource
from dimesh_contracts.cdc.system import System
from dimesh_contracts.contract import proves


class Descriptions(CDCHarness):
    """Capabilities, objects and fields."""

    @proves(G.STATED)
    async def test_states_what_it_offers(self, source: CDCSource, system: System) -> None:
        """The source states its capabilities and its system, and ``check`` lists the object. Usually wrong: a check that
        only connects.
        """
        self.check_offers(source.capabilities)
        assert source.system
        await system.put("k", "v")
        result = await source.check()
        assert result.ok, result.problems
        assert result.objects.get(system.object) == ""

    @proves(G.STATED)
    async def test_closing_twice(self, new_source: NewSource) -> None:
        """Usually wrong: an error from a client that is closed already."""
        source = new_source()
        await source.open()
        await source.close()
        await source.close()

    @proves(G.UNKNOWN_OBJECT)
    async def test_an_unknown_object(self, source: CDCSource) -> None:
        """Usually wrong: a feed waits for ever for an object that does not exist."""
        with pytest.raises(SourceObjectError, match="nobody_has_this"):
            await source.position("nobody_has_this")
        if Capability.SNAPSHOT in source.capabilities:
            with pytest.raises(SourceObjectError, match="nobody_has_this"):
                await self.snapshot(source, "nobody_has_this")

    @proves(G.DESCRIBED, Capability.DESCRIBED, Capability.SNAPSHOT)
    async def test_a_description_has_every_field(self, source: CDCSource, system: System) -> None:
        """Usually wrong: fields without a value in any row, or the key, are left out; an object that does not exist has a
        schema.
        """
        assert isinstance(source, Describes)
        await system.put("k", "v")
        schema = await source.schema(system.object)
        assert schema is not None, "there is no description of an object that can be captured"
        for change, _ in await self.snapshot(source, system.object):
            assert change.after is not None
            lacking = (change.after.keys() | change.primary_key.keys()) - schema["properties"].keys()
            assert not lacking, f"the description lacks {sorted(lacking)}"
        with pytest.raises(SourceObjectError, match="nobody_has_this"):
            await source.schema("nobody_has_this")
