"""Servers for fixtures: how to report an unavailable server, and keep the logs of a server whose test failed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NoReturn, TypeVar

import pytest

from servers.processes import ServerUnavailable

S = TypeVar("S")


class _Failed(Exception):
    """Raised in a server's context to make it keep its logs."""


@contextlib.contextmanager
def available(server: AbstractContextManager[S], request: pytest.FixtureRequest) -> Iterator[S]:
    """Yield the running server, whose logs are kept if a test fails; skip the tests if it is unavailable (in CI, fail)."""
    before = request.session.testsfailed
    try:
        with server as running:
            yield running
            if request.session.testsfailed > before:
                raise _Failed
    except ServerUnavailable as error:
        unavailable(error)
    except _Failed:
        pass


def unavailable(error: ServerUnavailable) -> NoReturn:
    """Skip the test and report the reason; in CI, where every server is required, fail."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"a server that is required in CI is unavailable: {error}")
    pytest.skip(f"NOT TESTED: {error}")
