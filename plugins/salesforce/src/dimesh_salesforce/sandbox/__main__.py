"""``python -m dimesh_salesforce.sandbox --port 12112``: the sandbox, until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys

from dimesh_salesforce.sandbox.rest import CLIENT_ID, CLIENT_SECRET
from dimesh_salesforce.sandbox.server import SalesforceSandbox


async def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m dimesh_salesforce.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=12_112)
    parser.add_argument("--grpc-port", type=int, default=12_113)
    parser.add_argument("--accounts", type=int, default=10, help="how many are there from the beginning")
    parser.add_argument(
        "--keep-alive", type=float, default=2.0, help="seconds between signs of life of a quiet stream"
    )
    given = parser.parse_args()
    sandbox = SalesforceSandbox(port=given.port, grpc_port=given.grpc_port, keep_alive=given.keep_alive)
    sandbox.org.seed("Account", given.accounts)
    async with sandbox:
        sys.stdout.write(
            f"Salesforce sandbox: {sandbox.url} (a page to change things by hand), Pub/Sub API {sandbox.grpc_target} without "
            f"TLS, client_id {CLIENT_ID}, client_secret {CLIENT_SECRET}\n"
        )
        sys.stdout.flush()
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await ended.wait()


asyncio.run(main())
