"""Opens lineage in the background, again and again until it works: the log may be in use by another process that ends later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from dimesh.clock import Clock
from dimesh.printable import printable_error
from dimesh.tasks import end_tasks

logger = logging.getLogger(__name__)

FIRST_WAIT: Final = 5.0
"""The seconds until the second attempt; they double with each further one."""
LONGEST_WAIT: Final = 60.0


class Opener:
    """Opens the sinks of a lineage service, and logs the first failure and the success after it.

    Args:
        open: opens them; may be called again after it failed.
        clock: time.
    """

    def __init__(self, open: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self._open = open
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to open, once. Returns at once."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="dimesh-lineage-open")

    async def stop(self) -> None:
        """Try no more."""
        if self._task is not None:
            await end_tasks((self._task,))

    async def _run(self) -> None:
        wait = FIRST_WAIT
        failed = False
        while True:
            try:
                await self._open()
            except Exception as error:  # a sink of others may raise anything
                if not failed:
                    logger.error(
                        "lineage is not written: it is kept in memory as far as there is space, and opened again from time to "
                        "time: %s",
                        printable_error(error),
                    )
                failed = True
                await self._clock.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT)
            else:
                if failed:
                    logger.info("lineage is written from now on, with what was kept in memory")
                return
