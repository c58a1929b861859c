"""What happens on a bus, recorded while it happens, and checked afterwards.

::

    history = History.append_to("run.jsonl")
    bus = EventBus(RecordingBackend(backend, history))
    await bus.subscribe("orders", handler, "billing", middleware=[history.handling("orders", "billing")])
    ...
    violations = check(read("run.jsonl"), complete=True)

Any number of processes append to one file. ``python -m dimesh_contracts.history run.jsonl`` checks it from a shell.
"""

from __future__ import annotations

from dimesh_contracts.history.checker import Kind, Violation, check
from dimesh_contracts.history.entries import Entry, read
from dimesh_contracts.history.recorder import History, RecordingBackend

__all__ = ["Entry", "History", "Kind", "RecordingBackend", "Violation", "check", "read"]
