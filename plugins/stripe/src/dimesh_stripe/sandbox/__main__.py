"""``python -m dimesh_stripe.sandbox --port 12111``: the sandbox, until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys

from dimesh_stripe.sandbox.server import KEY, StripeSandbox


async def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m dimesh_stripe.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=12_111)
    parser.add_argument(
        "--customers",
        type=int,
        default=10,
        help="how many are there from the beginning, made in the months before",
    )
    given = parser.parse_args()
    sandbox = StripeSandbox(given.port)
    sandbox.account.seed("customer", given.customers, lambda n: {"name": f"Customer {n}"})
    async with sandbox:
        sys.stdout.write(f"Stripe sandbox: {sandbox.url} (a page to change things by hand), API key {KEY}\n")
        sys.stdout.flush()
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await ended.wait()


asyncio.run(main())
