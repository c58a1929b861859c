"""Web applications without an event loop publish: Flask and Django, in gunicorn's worker processes and threads."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dimesh import EventBusFactory, StartAt
from dimesh_contracts.waiting import until

pytestmark = pytest.mark.slow

FLASK = """
from flask import Flask, request
from dimesh import Event, EventBusFactory, SyncBus

bus = SyncBus(EventBusFactory.create("sqlite", path="shop.db"))
application = Flask(__name__)


@application.post("/orders")
def order():
    return bus.publish("orders", Event("order.created", None, request.get_json())).event_id
"""
DJANGO = """
import json
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from dimesh import Event, EventBusFactory, SyncBus

bus = SyncBus(EventBusFactory.create("sqlite", path="shop.db"))
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="only-for-a-test")


def order(request):
    return HttpResponse(bus.publish("orders", Event("order.created", None, json.loads(request.body))).event_id)


urlpatterns = [path("orders", order)]
application = get_wsgi_application()
"""


@asynccontextmanager
async def gunicorn(folder: Path, *options: str) -> AsyncIterator[str]:
    """Serve the module ``shop_web`` of a folder with two worker processes of four threads."""
    log = folder / "gunicorn.log"
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--workers", "2", "--threads", "4"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *options, "shop_web"], cwd=folder, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        await until(lambda: "Listening at: " in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield log.read_text().split("Listening at: ")[1].split()[0]
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each-worker-loads", "preload"])
@pytest.mark.parametrize("application", [FLASK, DJANGO], ids=["flask", "django"])
async def test_an_application_in_gunicorn_publishes(
    tmp_path: Path, application: str, options: tuple[str, ...]
) -> None:
    (tmp_path / "shop_web.py").write_text(application)

    def order(number: int) -> str:
        request = urllib.request.Request(
            f"{address}/orders", f'{{"order": {number}}}'.encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    async with gunicorn(tmp_path, *options) as address:
        with ThreadPoolExecutor(8) as clients:
            answered = set(clients.map(order, range(40)))
    assert len(answered) == 40
    found: dict[str, int] = {}
    async with EventBusFactory.create("sqlite", path=str(tmp_path / "shop.db")) as bus:
        await bus.subscribe(
            "orders",
            lambda event: found.update({event.event_id: event.payload["order"]}),
            "g",
            start=StartAt.EARLIEST,
        )
        await until(lambda: len(found) == 40)
    assert set(found) == answered
    assert sorted(found.values()) == list(range(40))
