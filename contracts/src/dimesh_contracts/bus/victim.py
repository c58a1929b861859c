"""The process that the kit's tests kill or stop. It uses the backend without an engine, and prints what it has done.

``python -m dimesh_contracts.bus '{"factory": "package.module:function", "options": {…}, "role": …, "topic": …}'``.
Each line that it prints is one JSON value, written after the backend has confirmed what the line says.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any

from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh.errors import FencedError
from dimesh.plugins import default_manager
from dimesh.spi.bus import Attempts, BusBackend, StartAt
from dimesh.spi.context import PluginContext
from dimesh_contracts.bus.harness import BusHarness, Factory, payloads, record

BACKLOG = 30
"""The records that are appended at once."""
STEP = 5
"""The records that are committed at once."""
COMMITTED = 4 * STEP
"""The records that are committed in the end; one after them has failed attempts."""
FAILED = Attempts(3, 1_700_000_000.0)
DELAY = 0.5
"""The seconds for which a record is held back."""


def from_driver(driver: str, options: Mapping[str, Any]) -> BusBackend:
    """Make the backend of an installed driver."""
    return default_manager().bus_backend(driver, options, PluginContext(clock=SystemClock()))


def build(factory: Factory) -> BusBackend:
    """Make a backend by the function that the factory names."""
    name, options = factory
    module, _, function = name.partition(":")
    made: BusBackend = getattr(import_module(module), function)(**options)
    return made


def done(what: Any) -> None:
    """Print a line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def publish(backend: BusBackend, topic: str) -> None:
    """Append batches of three until the process is killed; print the numbers and positions of each."""
    number = 0
    while True:
        numbers = range(number, number + 3)
        positions = await backend.append(topic, [record(n, f"k{number % 5}") for n in numbers])
        done([[n, list(p) if p else None] for n, p in zip(numbers, positions, strict=True)])
        number += 3


async def consume(backend: BusBackend, topic: str) -> None:
    """Append a backlog, commit the first records of it step by step, and print what each commit covers."""
    reader = await BusHarness.open_reader(backend, topic, "g", StartAt.EARLIEST)
    await backend.append(topic, [record(n, f"k{n % 7}") for n in range(BACKLOG)])
    for _ in range(COMMITTED // STEP):
        got = await reader.take(STEP, limit=STEP)
        await reader.commit()
        done(payloads(got))
    (failed,) = await reader.take(1, limit=1)
    if Capability.DURABLE_ATTEMPTS in backend.capabilities:
        await reader.stream.save_attempts(failed, FAILED)
    done(failed.record.event.payload)
    await asyncio.Event().wait()


async def delay(backend: BusBackend, topic: str) -> None:
    """Append a record that is held back, and print the time when it is due."""
    held = record("held")
    held.deliver_at = SystemClock().time() + DELAY
    await backend.append(topic, [held])
    done(held.deliver_at)
    await asyncio.Event().wait()


async def sleep(backend: BusBackend, topic: str) -> None:
    """Receive everything in the group, and commit it when a line arrives; print whether that was refused."""
    reader = await BusHarness.open_reader(backend, topic, "g", StartAt.EARLIEST)
    got = await reader.take(BACKLOG)
    done(payloads(got))
    await asyncio.to_thread(sys.stdin.readline)
    try:
        await reader.commit()
    except FencedError:
        done("fenced")
    else:
        done("committed")
    await asyncio.Event().wait()


ROLES: Mapping[str, Callable[[BusBackend, str], Awaitable[None]]] = {
    "publish": publish,
    "consume": consume,
    "delay": delay,
    "sleep": sleep,
}


async def main(task: str) -> None:
    """Play the role until the process is killed."""
    wanted = json.loads(task)
    sys.path[:0] = [entry for entry in wanted["path"] if entry not in sys.path]
    backend = build((wanted["factory"], wanted["options"]))
    await backend.open()
    await ROLES[wanted["role"]](backend, wanted["topic"])
