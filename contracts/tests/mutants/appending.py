"""Buses whose appends have a fault that only large, odd or concurrent ones show."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bus import Memory, changed
from catalogue import Mutant

from dimesh.spi.bus import Position, Record
from dimesh_contracts.bus import BusGuarantee as G


class CountsEachThousandAnew(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        positions = await super().append(topic, records, **options)
        return [positions[n % 1_000] for n in range(len(positions))]


class AppendsOneByOne(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        positions: list[Position | None] = []
        for record in records:
            positions += await super().append(topic, [record], **options)
            await asyncio.sleep(0)
        return positions


class CutsKeys(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        cut = [Record.of(r.event, r.key[:1_024], r.deliver_at) if len(r.key) > 1_024 else r for r in records]
        return await super().append(topic, cut, **options)


class SpeaksLatin1(Memory):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        spelled = []
        for record in records:
            try:
                headers = record.event.headers
            except Exception:
                headers = {}
            plain = {name.encode("latin-1", "replace").decode("latin-1"): v for name, v in headers.items()}
            spelled.append(record if plain == headers else changed(record, headers=plain))
        return await super().append(topic, spelled, **options)


MUTANTS = [
    Mutant(
        "counts-anew",
        G.POSITIONS,
        "gives the records after the first thousand of an append the positions of the first ones",
        CountsEachThousandAnew,
    ),
    Mutant("one-by-one", G.WHOLE, "writes the records of an append one by one", AppendsOneByOne),
    Mutant("cuts-keys", G.UNCHANGED, "cuts ordering keys at 1,024 characters", CutsKeys),
    Mutant("latin-1", G.UNCHANGED, "stores the names of headers in Latin-1", SpeaksLatin1),
]
