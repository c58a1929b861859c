"""Lineage of a mesh whose log cannot be opened, at first or at all."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dimesh import Event, LineageQuery, LineageService, Mesh, StorageError, load_settings
from dimesh.lineage import opener
from dimesh_contracts.waiting import until


async def test_a_log_that_cannot_be_opened_is_reported_and_events_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file, where a folder should be")
    (tmp_path / "dimesh.toml").write_text(
        f'[mesh]\ndata_dir = "{tmp_path}"\n[lineage]\nenabled = true\n[lineage.options]\npath = "{tmp_path / "taken"}"\n'
    )
    handled: list[int] = []
    mesh = Mesh(load_settings(tmp_path / "dimesh.toml").settings)
    await mesh.open()
    await mesh.bus.subscribe("orders", lambda event: handled.append(event.payload), "shipping")
    for number in range(3):
        await mesh.bus.publish("orders", Event("order.created", None, number))
    await until(lambda: len(handled) == 3)
    await until(lambda: "lineage is not written" in caplog.text)
    # What was not written is an error in the end, too.
    with pytest.raises(StorageError, match=r"3 lineage observations were not written: .*taken"):
        await mesh.close()


def settings(folder: Path, driver: str = "memory") -> Mesh:
    return Mesh(
        load_settings(
            mesh={"data_dir": folder},
            bus={"driver": driver},
            lineage={"enabled": True},
            handlers=[{"topic": "orders", "call": "builtins:id", "group": "shipping"}],
        ).settings
    )


async def test_a_mesh_takes_over_the_log_of_another_one_that_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opener, "FIRST_WAIT", 0.01)
    caplog.set_level(logging.INFO, "dimesh.lineage")
    first, second = settings(tmp_path), settings(tmp_path)
    sent = [Event("order.created", None, number) for number in range(2)]
    async with second:
        async with first:
            await first.start()
            await until(
                lambda: (tmp_path / "lineage").exists() and any((tmp_path / "lineage").glob("*.lineage"))
            )
            await second.start()
            await until(lambda: "lineage is not written" in caplog.text)  # before any event
            await first.bus.publish("orders", sent[0])
            await second.bus.publish("orders", sent[1])
            await first.bus.idle()
            await second.bus.idle()
        await until(lambda: "lineage is written from now on" in caplog.text)
    assert caplog.text.count("lineage is not written") == 1
    async with LineageService(tmp_path / "lineage", read_only=True) as log:
        for event in sent:
            assert (await log.query_lineage(LineageQuery(node_id=f"event:{event.event_id}")))["nodes"]


async def test_a_log_that_cannot_be_opened_is_no_error_if_nothing_was_lost(tmp_path: Path) -> None:
    (tmp_path / "lineage").write_text("a file, where a folder should be")
    async with settings(tmp_path) as mesh:
        await mesh.start()


async def test_observations_without_space_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = LineageService(tmp_path / "lineage", capacity=5)
    for number in range(20):
        service.track_event_nowait(Event("order.created", None, number))
    assert service.stats()["dropped"] == 15
    reports = [r.getMessage() for r in caplog.records if "lineage has no space" in r.getMessage()]
    assert [text.partition(": ")[2].split()[0] for text in reports] == ["1", "10"]
    await service.close()
