"""Verifying captured objects on request: beside the process that captures them, or with a capture of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dimesh.errors import ConfigurationError
from dimesh.ops.capture import find_object, find_sources, progress_log

if TYPE_CHECKING:
    from dimesh.cdc.state import ProgressLog
    from dimesh.cdc.verification.standing import Standing
    from dimesh.cdc.verification.tally import Tally
    from dimesh.cdc.verification.verifier import Verifier
    from dimesh.mesh import Mesh
    from dimesh.settings import SourceSection

SAMPLE: Final = 500
"""The number of published rows that are asked for, and of rows that are listed, by default."""
PATIENCE: Final = 600.0
"""The seconds beyond the lag of the source that the stream has to get past the first readings."""
_POLL: Final = 0.2
_LISTS: Final = 50
"""The number of lists that a sample is divided into: each is one draw."""


@dataclass(frozen=True, slots=True)
class VerificationProgress:
    """How far a verification is."""

    source: str
    object: str
    done: int
    """The number of rows that were read."""
    total: int | None
    """The number of rows to read; None: unknown."""
    pending: int
    """The number of differences that are not confirmed yet."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome for one object."""

    source: str
    system: str
    object: str
    obstacle: str
    """The reason for which the object was not verified; empty if it was."""
    everything: bool
    """Whether all rows were compared."""
    tally: Tally
    blind_spots: tuple[str, ...]

    def numbers(self) -> dict[str, Any]:
        """Return the outcome as plain values, without keys or values of rows."""
        return {
            "object": self.object,
            "not_verified": self.obstacle,
            "everything": self.everything,
            **self.tally.numbers(),
            "not_seen": list(self.blind_spots),
        }

    def document(self) -> dict[str, Any]:
        """Return the outcome for its user, with the keys of the first wrong rows."""
        from dimesh.cdc.verification.tally import MOST_LISTED

        errors = [error.described(self.object) for error in islice(self.tally.wrong.values(), MOST_LISTED)]
        return {"source": self.source, **self.numbers(), "errors": errors}


def shareable(outcomes: Sequence[Verified]) -> dict[str, Any]:
    """Return a report that contains no personal data: no values, no keys, no names of sources."""
    import platform

    from dimesh import __version__
    from dimesh.cdc.verification.tally import Pseudonyms

    pseudonyms = Pseudonyms()
    return {
        "dimesh": __version__,
        "python": platform.python_version(),
        "objects": [
            {
                "source": pseudonyms.of(one.source),
                "system": one.system,
                **one.numbers(),
                "errors": pseudonyms.errors(one.tally.wrong.values(), one.source, one.object),
            }
            for one in outcomes
        ],
    }


async def verify(
    mesh: Mesh, name: str | None = None, object: str | None = None, sample: int | None = SAMPLE
) -> AsyncIterator[VerificationProgress | Verified]:
    """Compare rows at the sources with what was published; yield the progress, and the outcome of each object. The mesh must be
    open.

    What no other process captures is captured by this one meanwhile, so that the published rows are current.

    Args:
        mesh: the mesh.
        name: only this source; None: all.
        object: only this object; it needs a source.
        sample: the number of rows of each object to read from each side; None: all rows.

    Raises:
        ConfigurationError: the settings have no such source.
        CDCError: the source does not capture the object, or it cannot be read.
    """
    if object is not None and name is None:
        raise ConfigurationError("an object needs a source: name it")
    if object is not None and name is not None:
        sections = [find_object(mesh.settings, name, object)]
    else:
        sections = find_sources(mesh.settings, name)
    for section in sections:
        objects = section.objects if object is None else [object]
        async with AsyncExitStack() as stack:
            for verifier in await _verifiers(mesh, section, objects, stack):
                async for found in _Verification(mesh, section, verifier, sample).run():
                    yield found


async def _verifiers(
    mesh: Mesh, section: SourceSection, objects: Sequence[str], stack: AsyncExitStack
) -> list[Verifier]:
    """Return the verifiers of a source's objects, which are captured by another process or from now on by this one."""
    from dimesh.cdc.state import progress_key
    from dimesh.cdc.verification.history import History
    from dimesh.cdc.verification.verifier import Verifier

    store = mesh.cdc_store
    if not (Path(store.path).exists() and await store.is_claimed(section.name)):
        connector = mesh.connector(section)
        stack.push_async_callback(connector.disconnect)
        await connector.start(objects)
        return [connector.verifier(one) for one in objects]
    source = mesh.source(section)
    await source.open()
    stack.push_async_callback(source.close)
    topic = section.topic or f"cdc.{source.system}"
    log = progress_log(mesh)
    return [
        Verifier(
            source,
            one,
            store,
            progress_key(section.name, one),
            _OtherProcess(mesh, log, section.name, one),
            History(mesh.bus, topic, section.name, one),
            mesh.clock,
        )
        for one in objects
    ]


class _OtherProcess:
    """An object that another process captures, as its reports say."""

    def __init__(self, mesh: Mesh, log: ProgressLog, source: str, object: str) -> None:
        self._mesh = mesh
        self._log = log
        self._source = source
        self._object = object

    async def standing(self) -> Standing:
        """Return the standing of the object."""
        from dimesh.cdc.reports import load_report
        from dimesh.cdc.state import progress_key
        from dimesh.cdc.verification.standing import standing_of

        store = self._mesh.cdc_store
        report = await load_report(store, self._source)
        return standing_of(
            None if report is None else report.objects.get(self._object),
            await self._log.load(progress_key(self._source, self._object)),
            await store.is_claimed(self._source),
            bool(await store.paused(self._source) & {"", self._object}),
        )


class _Verification:
    """The verification of one object."""

    def __init__(self, mesh: Mesh, section: SourceSection, verifier: Verifier, sample: int | None) -> None:
        self._mesh = mesh
        self._section = section
        self._verifier = verifier
        self._sample = sample
        self._own = not isinstance(verifier.feed, _OtherProcess)

    async def run(self) -> AsyncIterator[VerificationProgress | Verified]:
        """Read, settle, and yield the outcome last."""
        from dimesh.cdc.verification.blind_spots import describe_blind_spots
        from dimesh.sourcekit.budget import Allowance
        from dimesh.spi.cdc import ReadsRows

        verifier = self._verifier
        allowance = Allowance(self._mesh.clock)
        obstacle = await self._wait_for_stream()
        lists = False
        if not obstacle:
            reading = self._read()
            more = True
            while more:
                with allowance.spend():  # not across a yield: the caller has a context of its own
                    progress = await anext(reading, None)
                more = progress is not None
                if progress is not None:
                    yield progress
            while verifier.pending:
                with allowance.spend():
                    if not await self._settle():
                        verifier.give_up()
                yield self._progress(verifier.tally.rows, None)
            with allowance.spend():
                lists = await verifier.lists()
        verifier.tally.requests = allowance.requests
        source = verifier.source
        yield Verified(
            self._section.name,
            source.system,
            verifier.object,
            obstacle,
            self._sample is None,
            verifier.tally,
            tuple(
                describe_blind_spots(
                    lists,
                    isinstance(source, ReadsRows),
                    self._mesh.cdc_store.last_state,
                    self._sample is None,
                )
            ),
        )

    async def _wait_for_stream(self) -> str:
        """Wait until what was published is current; return the reason if that is not to be expected."""
        from dimesh.cdc.verification.standing import Obstacle

        end = self._mesh.clock.monotonic() + PATIENCE
        while True:
            standing = await self._verifier.feed.standing()
            if standing.obstacle is None and standing.delivered_until > 0:
                return ""
            found = standing.obstacle
            reading = found in (Obstacle.NOT_STARTED, Obstacle.SNAPSHOT, Obstacle.REPAIR, Obstacle.LISTING)
            waits = found is None or found.passes_soon or (self._own and reading)
            late = self._mesh.clock.monotonic() > end and not (self._own and reading)
            if not waits or late:
                return (found or Obstacle.SILENT).value
            await asyncio.sleep(_POLL)

    async def _read(self) -> AsyncIterator[VerificationProgress]:
        from dimesh.cdc.verification.sampling import sample

        verifier, done = self._verifier, 0
        if self._sample is None:
            async for done in verifier.check_all():
                yield self._progress(done, None)
            return
        rng = random.Random()  # noqa: S311 - a sample
        most = max(1, self._sample // _LISTS)
        lists = await verifier.lists()
        draws = self._sample // most if lists else 0
        keys = await sample(self._mesh.cdc_store, verifier.key, self._sample + draws, rng)
        anchors = keys[-draws:] if len(keys) > draws else rng.choices(keys or [""], k=draws if keys else 1)
        published = keys[: self._sample]
        total = len(published) + most * len(anchors) * lists
        for begin in range(0, len(published), 20):
            some = published[begin : begin + 20]
            await verifier.check_published(some)
            done += len(some)
            yield self._progress(done, total)
        for anchor in anchors if lists else ():
            await verifier.check_listed(anchor, most)
            done += most
            yield self._progress(done, total)

    async def _settle(self) -> bool:
        """Wait until at least one suspicion is settled; return False if that takes too long."""
        verifier = self._verifier
        before = verifier.pending
        end = self._mesh.clock.monotonic() + min(verifier.settling * 3, PATIENCE) + PATIENCE
        while self._mesh.clock.monotonic() < end:
            await verifier.settle()
            if verifier.pending < before:
                return True
            standing = await verifier.feed.standing()
            if standing.obstacle is not None and not standing.obstacle.passes_soon:
                return False
            await asyncio.sleep(_POLL)
        return False

    def _progress(self, done: int, total: int | None) -> VerificationProgress:
        return VerificationProgress(
            self._section.name, self._verifier.object, done, total, self._verifier.pending
        )
