"""The deadline of a test: what hangs must say where it hangs."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

GRACE: Final = 5.0
"""The seconds that a test gets to clean up after its deadline."""
TASKS: Final = 20
"""The number of tasks that are shown at most."""


class DeadlineError(AssertionError):
    """A test did not end in time. The message shows what was pending."""


def pending() -> str:
    """Return the stacks of the tasks that are not done, except the one that calls this."""
    text = io.StringIO()
    tasks = sorted(asyncio.all_tasks() - {asyncio.current_task()}, key=lambda task: task.get_name())
    for task in tasks[:TASKS]:
        task.print_stack(file=text)
    if len(tasks) > TASKS:
        text.write(f"and {len(tasks) - TASKS} more tasks\n")
    return text.getvalue() or "no task is pending\n"


async def within(seconds: float, test: Coroutine[Any, Any, T]) -> T:
    """Return the result of a test.

    Raises:
        DeadlineError: the test did not end within ``seconds``. It was cancelled, even if it ignores that.
    """
    task = asyncio.create_task(test, name="the test")
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
        stacks = pending()
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE)
    finally:
        task.cancel()
    ignored = "" if task.done() else "It also ignored its cancellation. "
    raise DeadlineError(f"the test did not end within {seconds:g} s. {ignored}Pending:\n{stacks}")
