"""What goes in comes out: unchanged, complete, in order, or refused with an error."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh.errors import BackpressureError, DimeshError, NotOfferedError, is_permanent
from dimesh.events import Event, EventMetadata, EventPriority
from dimesh.spi.bus import BusBackend, Record, RecordLimits, StartAt
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend, payloads, record
from dimesh_contracts.contract import NOT_OFFERED, proves
from dimesh_contracts.waiting import deadline

ODD_PAYLOADS = (b"", b"\x00", b"\xff\xfe\x00", b"null", b'{"a":1}', bytes(range(256)), b"\r\n" * 5_000)


class Publishing(BusHarness):
    """Append, and its outcome."""

    @proves(G.STATED)
    async def test_states_what_it_offers(self, backend: BusBackend) -> None:
        """The test class names the capabilities that the backend states. Usually wrong: a capability was added or dropped on
        one side only, and with it its tests.
        """
        self.check_offers(backend.capabilities)
        assert backend.family == self.family
        assert backend.name
        assert backend.commit_interval > 0

    @proves(G.UNCHANGED)
    async def test_what_goes_in_comes_out(self, backend: BusBackend, topic: str) -> None:
        """Header, payload, key and routing fields arrive byte for byte. Usually wrong: a text column for bytes; an encoding
        applied twice; an empty payload read as no payload.
        """
        reader = await self.open_reader(backend, topic)
        sent = [
            record({"n": 1}, "key-1", tags={"a": "b"}),
            record("", "", source_pillar="Growth Engine", priority=EventPriority.CRITICAL),
            record(None, "ключ \N{PILE OF POO}", kind="other.kind", source_agent="a\u2028b"),
            record("x" * 100_000, "large"),
            record({"\x00": ["\x1f", "ﷺ"]}, "\x00"),
        ]
        await backend.append(topic, sent)
        by_key = {d.record.key: d.record for d in await reader.take(len(sent))}
        for expected in sent:
            found = by_key[expected.key]
            assert found.header == expected.header
            assert found.payload == expected.payload
            assert found.event == expected.event
            assert (found.event_type, found.pillar, found.priority) == (
                expected.event_type,
                expected.pillar,
                expected.priority,
            )
        await reader.close()

    @proves(G.UNCHANGED)
    async def test_headers_keep_their_names_and_values(self, backend: BusBackend, topic: str) -> None:
        """Names that differ only in case are two headers, and values may be bytes. Usually wrong: names are lower-cased as
        in HTTP; a header without a value is dropped; bytes are decoded.
        """
        reader = await self.open_reader(backend, topic)
        headers: dict[str, str | bytes] = {
            "X-Upper": "1",
            "x-upper": "2",
            "empty": "",
            "raw": b"\x00\xff",
            "traceparent-like": "00-ab",
        }
        event = Event("contract.event", EventMetadata(tags={"Tag": "A", "tag": "a"}), 1).replace(
            headers=headers
        )
        await backend.append(topic, [Record.of(event, "k")])
        (found,) = await reader.take(1)
        assert dict(found.record.event.headers) == headers
        assert dict(found.record.event.metadata.tags) == {"Tag": "A", "tag": "a"}
        await reader.close()

    @proves(G.UNCHANGED)
    async def test_long_and_foreign_texts(self, backend: BusBackend, topic: str) -> None:
        """Keys up to ``max_text``, headers of 4 kB and the longest tags arrive, and so do those in any script; a longer key is
        refused, not cut. Usually wrong: a limit of the broker on attributes or keys cuts them; names or values are encoded as
        ASCII or Latin-1; a key is replaced by its hash.
        """
        reader = await self.open_reader(backend, topic)
        texts = ["x" * 4_096, "ﷺ日本語\N{PILE OF POO}é" * 200, "\x7f\x80\u2028 \ufeff=;,%0A\"'\\"]
        sent = []
        for n, text in enumerate(texts):
            event = Event("contract.event", EventMetadata(tags={"long": text[:1_024], f"тег{n}": "é"}), n)
            headers: dict[str, str | bytes] = {"long": text, f"заголовок-{n}": text.encode("utf-8")}
            key = text.encode("utf-8")[: self.max_text].decode("utf-8", "ignore")
            sent.append(Record.of(event.replace(headers=headers), key))
        if self.max_text < 4_096:
            with pytest.raises(DimeshError):
                await backend.append(topic, [Record.of(sent[0].event, texts[0])])
        await backend.append(topic, sent)
        found = {d.record.event.payload: d.record for d in await reader.take(len(sent))}
        for n, expected in enumerate(sent):
            assert found[n].key == expected.key
            assert dict(found[n].event.metadata.tags) == dict(expected.event.metadata.tags)
            assert dict(found[n].event.headers) == dict(expected.event.headers)
            assert found[n].header == expected.header
        await reader.close()

    @proves(G.UNCHANGED)
    async def test_bytes_that_are_no_event_are_carried(self, backend: BusBackend, topic: str) -> None:
        """A backend carries any bytes; the engine dead-letters what it cannot decode. Usually wrong: a header is decoded to
        fill a column, and the error ends the stream.
        """
        reader = await self.open_reader(backend, topic)
        sent = [
            Record.stored(raw, raw[::-1], f"k{n}", "t", "p", "normal") for n, raw in enumerate(ODD_PAYLOADS)
        ]
        await backend.append(topic, sent)
        got = {d.record.key: d.record for d in await reader.take(len(sent))}
        for expected in sent:
            assert (got[expected.key].header, got[expected.key].payload) == (
                expected.header,
                expected.payload,
            )
        await reader.close()

    @proves(G.COMPLETE)
    async def test_payloads_of_every_size(self, backend: BusBackend, topic: str) -> None:
        """Payloads around the powers of two where buffers end, up to ``max_payload``, arrive whole. Usually wrong: a cut at
        64 KiB; the length of a frame in 16 bits.
        """
        reader = await self.open_reader(backend, topic)
        sizes = [n for n in (0, 1, 255, 4_096, 65_535, 65_536, 65_537, 1_048_577) if n <= self.max_payload]
        sizes.append(self.max_payload)
        for size in sizes:
            sent = Record.stored(b"h", b"\xa5" * size, "k", "t", "p", "normal")
            await backend.append(topic, [sent])
            (found,) = await reader.take(1)
            assert len(found.record.payload) == size
            assert found.record.payload == sent.payload
        await reader.close()

    @proves(G.PERMANENT)
    async def test_what_is_never_taken_is_refused_for_good(self, backend: BusBackend, topic: str) -> None:
        """A record above the limit of the backend raises a permanent error, also before an append where the backend knows its
        limit; nothing is taken, and the next append works. Usually wrong: the error is the one of an outage, so that whatever
        writes the record tries for ever.
        """
        if self.oversized is None:
            pytest.skip(f"{NOT_OFFERED}it has no limit")
        reader = await self.open_reader(backend, topic)
        large = record("x" * self.oversized)
        with pytest.raises(DimeshError) as refused:
            await backend.append(topic, [record("small"), large])
        assert is_permanent(refused.value), f"{refused.value!r} is not permanent"
        if isinstance(backend, RecordLimits):
            with pytest.raises(DimeshError) as known:
                backend.check_records(topic, [large])
            assert is_permanent(known.value)
            backend.check_records(topic, [record("small")])
        await reader.nothing()
        await backend.append(topic, [record("next")])
        assert payloads(await reader.take(1)) == ["next"]
        await reader.close()

    @proves(G.COMPLETE)
    async def test_every_record_of_every_batch_arrives(self, backend: BusBackend, topic: str) -> None:
        """Batches of 1 to 500 records arrive, appended one after the other and concurrently. Usually wrong: the last record
        of a batch is lost when a buffer is exactly full; an append overtakes the acknowledgement of another.
        """
        reader = await self.open_reader(backend, topic)
        number = 0
        batches = []
        for size in (1, 2, 3, 10, 99, 100, 101, 500):
            batches.append([record(number + n, f"k{n % 7}") for n in range(size)])
            number += size
        for batch in batches[:4]:
            positions = await backend.append(topic, batch)
            assert len(positions) == len(batch)
        await asyncio.gather(*(backend.append(topic, batch) for batch in batches[4:]))
        assert sorted(payloads(await reader.take(number))) == list(range(number))
        await reader.nothing(0.05)
        await reader.close()

    @proves(G.POSITIONS, family="log")
    async def test_positions_grow_and_are_never_used_twice(self, backend: BusBackend, topic: str) -> None:
        """The position in the receipt is the position of the delivery. Usually wrong: a counter restarts after the topic was
        emptied; two writers read the same end.
        """
        reader = await self.open_reader(backend, topic)
        seen: dict[tuple[int, int], int] = {}
        last: dict[int, int] = {}
        number = 0
        for n in range(6):
            for position in await backend.append(topic, [record(number + m, f"k{m}") for m in range(n + 1)]):
                assert position is not None
                assert position not in seen
                assert position.offset > last.get(position.partition, -1)
                last[position.partition] = position.offset
                seen[position] = number
                number += 1
        together = await asyncio.gather(
            *(backend.append(topic, [record(number + n, f"k{n}")]) for n in range(30))
        )
        for n, (position,) in enumerate(together):
            assert position is not None
            assert position not in seen
            seen[position] = number + n
        for delivery in await reader.take(len(seen)):
            assert seen[delivery.partition, delivery.offset] == delivery.record.event.payload
        await reader.close()

    @proves(G.POSITIONS, family="log")
    async def test_a_large_append_has_as_many_positions(self, backend: BusBackend, topic: str) -> None:
        """Each of 1,500 records of one append has a position of its own, and is delivered there. Usually wrong: a large append
        is split, and the positions are counted anew for each part.
        """
        reader = await self.open_reader(backend, topic)
        positions = await backend.append(topic, [record(n, f"k{n % 7}") for n in range(1_500)])
        assert len(positions) == len(set(positions)) == 1_500
        found = {(d.partition, d.offset): d.record.event.payload for d in await reader.take(1_500)}
        assert found == {position: n for n, position in enumerate(positions)}
        await reader.close()

    @proves(G.WHOLE, Capability.LOOK_BACK, family="log")
    async def test_an_append_becomes_visible_as_a_whole(self, backend: BusBackend, topic: str) -> None:
        """Whoever looks while records of one key are appended sees all records of an append or none. Usually wrong: the records
        are written one by one, so that a crash, an error or a reader in between sees a part.
        """
        await backend.append(topic, [record([-1, -1])])
        appending = asyncio.gather(
            *(backend.append(topic, [record([n, m]) for m in range(5)]) for n in range(20))
        )
        looks = 0
        while not appending.done() or not looks:
            found = payloads(await backend.read(topic, StartAt.EARLIEST, 1_000))
            seen = Counter(n for n, _ in found if n >= 0)
            assert set(seen.values()) <= {5}, f"appends of 5 records of which a part is visible: {seen}"
            looks += 1
            await asyncio.sleep(0)
        await appending

    @proves(G.KEY_ORDER, Capability.KEY_ORDER)
    async def test_a_key_keeps_its_order(self, backend: BusBackend, topic: str) -> None:
        """Records of one key arrive in the order of the calls, concurrent calls included. Usually wrong: a thread for each
        call; a retry that overtakes; a partition chosen at random.
        """
        reader = await self.open_reader(backend, topic)
        await asyncio.gather(
            *(
                backend.append(topic, [record(n, f"key-{n % 3}"), record(n + 0.5, f"key-{n % 3}")])
                for n in range(60)
            )
        )
        got = await reader.take(120)
        for key in ("key-0", "key-1", "key-2"):
            mine = [d.record.event.payload for d in got if d.record.key == key]
            assert mine == sorted(mine)
            assert len({d.partition for d in got if d.record.key == key}) == 1
        await reader.close()

    @proves(G.REFUSED)
    async def test_a_full_buffer_is_an_error_and_takes_nothing(
        self, new_small_backend: NewBackend, topic: str
    ) -> None:
        """With ``timeout=0`` a full backend refuses at once. What it refused is not delivered later; what it accepted is.
        Usually wrong: an error is logged and swallowed; a part of a refused batch was accepted.
        """
        backend = new_small_backend()
        await backend.open()
        reader = await self.open_reader(backend, topic)

        async def offer(n: int) -> bool:
            try:
                positions = await backend.append(
                    topic, [record([n, 0], str(n)), record([n, 1], str(n))], timeout=0
                )
            except BackpressureError:
                return False
            assert len(positions) == 2
            return True

        taken = [n for n, ok in enumerate(await asyncio.gather(*(offer(n) for n in range(600)))) if ok]
        got = payloads(await reader.take(2 * len(taken)))
        assert sorted(got) == [[n, part] for n in taken for part in (0, 1)]
        await reader.nothing(0.05)
        await reader.close()
        await backend.close()

    @proves(G.REFUSED)
    async def test_a_publisher_that_waits_is_served_when_there_is_room(
        self, new_small_backend: NewBackend, topic: str
    ) -> None:
        """With many waiting publishers and one slow reader, all records arrive, each key in order. Usually wrong: a waiting
        publisher is forgotten, or served twice.
        """
        backend = new_small_backend()
        await backend.open()
        reader = await self.open_reader(backend, topic)
        publishing = asyncio.gather(
            *(backend.append(topic, [record(n, str(n % 4))], timeout=30) for n in range(400))
        )
        got = await reader.take(400, limit=17)
        await publishing
        assert sorted(payloads(got)) == list(range(400))
        if Capability.KEY_ORDER in backend.capabilities:
            for key in "0123":
                mine = [d.record.event.payload for d in got if d.record.key == key]
                assert mine == sorted(mine)
        await reader.close()
        await backend.close()

    @proves(G.REFUSED)
    async def test_a_closed_backend_refuses(self, new_backend: NewBackend, topic: str) -> None:
        """An append after ``close`` raises. Usually wrong: it returns a position for a record that was not stored."""
        backend = new_backend()
        await backend.open()
        await backend.append(topic, [record()])
        await backend.close()
        with pytest.raises(DimeshError):
            async with deadline():
                await backend.append(topic, [record()])

    @proves(G.REFUSED)
    async def test_what_is_not_offered_is_refused(self, backend: BusBackend, topic: str) -> None:
        """An append that needs a missing capability stores nothing: a record with a due time must not be delivered at once
        instead. Usually wrong: an option is ignored.
        """
        reader = await self.open_reader(backend, topic)
        if Capability.DELAYED_DELIVERY not in backend.capabilities:
            held = record("late")
            held.deliver_at = SystemClock().time() + 1_000
            with pytest.raises(NotOfferedError):
                await backend.append(topic, [held])
        if Capability.ATOMIC_STATE not in backend.capabilities:
            with pytest.raises(NotOfferedError):
                await backend.append(topic, [record()], state={"k": b"v"})
            with pytest.raises(NotOfferedError):
                await backend.load_state("k")
        if Capability.LOOK_BACK not in backend.capabilities:
            await backend.append(f"{topic}.other", [record()])
            with pytest.raises(NotOfferedError):
                await backend.read(f"{topic}.other", {0: 0}, 1)
        await reader.nothing(0.05)
        await reader.close()
