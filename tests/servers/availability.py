"""Servers for fixtures: what to do when one cannot be had, and when tests that used it failed."""

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
    """Lets a server know that its logs are wanted."""


@contextlib.contextmanager
def available(server: AbstractContextManager[S], request: pytest.FixtureRequest) -> Iterator[S]:
    """The running server. Its logs are kept if a test fails meanwhile; if it cannot be had, that is said, and fails in
    CI.
    """
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
    """Say so; in CI, where every server is a must, fail."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"a server that CI must have: {error}")
    pytest.skip(f"NOT TESTED: {error}")
