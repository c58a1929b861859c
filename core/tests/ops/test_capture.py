"""Change capture, as typed results."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from dimesh.cdc.reports import STALE, ObjectReport, SourceReport, report_key
from dimesh.errors import CDCError, ConfigurationError
from dimesh.mesh import Mesh
from dimesh.ops import capture
from dimesh.settings import load_settings
from dimesh_contracts.waiting import until


async def test_a_check_names_each_object(mesh: Mesh, shop: sqlite3.Connection) -> None:
    found = await capture.check_sources(mesh)
    assert found.ok
    assert [(o.source, o.object, o.state) for o in found.objects] == [("shop", "orders", "ok")]


async def test_a_check_of_a_source_that_is_not_there(mesh: Mesh) -> None:
    found = await capture.check_sources(mesh, "shop")
    assert not found.ok
    assert found.objects[-1].reason != ""


async def test_progress_and_a_new_snapshot(mesh: Mesh, shop: sqlite3.Connection) -> None:
    (before,) = await capture.capture_progress(mesh)
    assert (before.phase, before.rows, before.paused) == (None, 0, False)
    seen = [progress async for progress in capture.resnapshot(mesh, "shop", "orders")]
    assert (seen[-1].rows, seen[-1].done) == (3, True)
    assert [progress.done for progress in seen[:-1]] == [False] * (len(seen) - 1)
    (after,) = await capture.capture_progress(mesh)
    assert (after.phase, after.repairs) == ("stream", 0)
    assert await capture.gap_history(mesh) == []


async def test_a_pause_is_in_the_progress(mesh: Mesh, shop: sqlite3.Connection) -> None:
    await capture.pause(mesh, "shop", "orders")
    assert [o.paused for o in await capture.capture_progress(mesh)] == [True]
    await capture.resume(mesh, "shop", "orders")
    assert [o.paused for o in await capture.capture_progress(mesh)] == [False]
    await capture.pause(mesh, "shop")
    with pytest.raises(CDCError, match="resume it without naming an object"):
        await capture.resume(mesh, "shop", "orders")
    with pytest.raises(CDCError, match="is paused: 'dimesh cdc resume' it first"):
        async for _ in capture.resnapshot(mesh, "shop", "orders"):
            pass


async def test_capture_until_the_mesh_is_closed(settings_file: Path, shop: sqlite3.Connection) -> None:
    async with Mesh(load_settings(settings_file).settings) as running:
        with pytest.raises(ConfigurationError, match="no source that is to run captures 'nope'"):
            await capture.start_capture(running, objects=["nope"])
        await capture.start_capture(running, ["shop"])
        await until(lambda: running.cdc.get_status()["shop"]["objects"]["orders"]["phase"] == "stream")
    async with Mesh(load_settings(settings_file).settings) as later:
        (progress,) = await capture.capture_progress(later)
        assert progress.phase == "stream"
        await capture.reset(later, "shop", "orders")
        assert [o.phase for o in await capture.capture_progress(later)] == [None]


async def test_a_process_that_no_longer_reports_is_stale(mesh: Mesh, shop: sqlite3.Connection) -> None:
    store = mesh.cdc_store
    claim = await store.claim("shop")
    assert claim is not None
    one = ObjectReport(phase="stream", changes=7, last_error="refused", missing=2)
    now = mesh.clock.time()

    async def reported(age: float) -> capture.ObjectProgress:
        report = SourceReport(
            at=now - age,
            system="outbox",
            status="connected",
            objects={"orders": one},
            process="box, process 1",
        )
        await store.save(report_key("shop"), msgspec.json.encode(report))
        (found,) = await capture.capture_progress(mesh)
        return found

    fresh = await reported(STALE - 10)
    assert (fresh.state, fresh.changes, fresh.missing, fresh.process) == ("running", 7, 2, "box, process 1")
    stale = await reported(STALE + 1)
    assert stale.state == "stale"
    assert stale.heartbeat is not None
    assert STALE < stale.heartbeat < STALE + 60
    claim.release()
    ended = await reported(STALE + 1)
    assert (ended.state, ended.heartbeat, ended.process) == ("not running", None, "")


def test_a_source_that_the_settings_do_not_name(mesh: Mesh) -> None:
    with pytest.raises(ConfigurationError, match="no source 'shp'; there are: shop"):
        capture.find_sources(mesh.settings, "shp")
    with pytest.raises(ConfigurationError, match=r"no change sources; add \[\[sources\]\]"):
        capture.find_sources(mesh.settings.model_copy(update={"sources": []}))
    with pytest.raises(CDCError, match="shop does not capture 'nope'; it captures orders"):
        capture.find_object(mesh.settings, "shop", "nope")
