"""The page on which a user changes a sandbox's objects by hand, and the description of what it shows."""

from __future__ import annotations

import html
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec
from starlette.responses import HTMLResponse, Response

POLICY: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
ASSETS: Final = {"page.js": "text/javascript", "page.css": "text/css"}


class Action(msgspec.Struct, kw_only=True):
    """A button: a command of the control endpoint.

    In the texts of its body ``{object}`` and ``{id}`` stand for the row's, ``{value}`` for what the user is asked, and
    ``{random}`` for a number.
    """

    label: str
    """The text on the button."""
    method: str = "POST"
    """The method of the command."""
    command: str
    """The name of the command."""
    body: dict[str, Any] = {}
    """The body of the command."""
    prompt: str = ""
    """The question that the user answers first; empty: no question."""


class Page(msgspec.Struct, kw_only=True):
    """What the page of one sandbox shows."""

    title: str
    """The heading."""
    note: str
    """A sentence below the heading."""
    id: str
    """The field of a row that holds its id."""
    labels: tuple[str, ...]
    """The fields of a row that may name it; the first one with a value is shown."""
    actions: tuple[Action, ...]
    """The buttons of the page."""
    row_actions: dict[str, tuple[Action, ...]]
    """The buttons of a row, by object; those of ``*`` stand on the rows of every object."""


def page_answer(page: Page) -> Response:
    """Return the page itself; it fetches what it shows."""
    text = _asset("page.html").decode().replace("{title}", html.escape(page.title))
    return HTMLResponse(text, headers=POLICY)


def asset_answer(name: str) -> Response:
    """Return the page's script or its style sheet."""
    return Response(_asset(name), media_type=ASSETS[name], headers=POLICY)


@cache
def _asset(name: str) -> bytes:
    return files("dimesh.sourcekit.sandbox").joinpath(name).read_bytes()
