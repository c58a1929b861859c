"""The status that ``dimesh cdc run`` prints where there is no terminal."""

from __future__ import annotations

import json

import pytest

from dimesh.cli.commands.cdc import StatusLine
from dimesh.cli.output import Output


def test_a_poll_without_changes_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine(Output(as_json=True)) as line:
        for requests, changes in ((1, 0), (2, 0), (3, 1)):
            at = {"phase": "stream", "requests": requests, "changes": changes}
            line.show({"billing": {"objects": {"customer": at}}})
    printed = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    objects = [one["sources"]["billing"]["objects"]["customer"] for one in printed]
    assert [(at["requests"], at["changes"]) for at in objects] == [(1, 0), (3, 1)]
