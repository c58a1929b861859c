"""The end of commands that run until they are stopped, and of code that ends the process itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimesh.cli.exit_codes import ExitCode

from .conftest import Run, environment
from .test_flow import wait_for
from .test_log import install

HANGS = """
import asyncio, pathlib, time

async def waits(event):
    pathlib.Path("handling").touch()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def blocks(event):
    pathlib.Path("handling").touch()
    while True:
        time.sleep(0.1)
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dimesh", *arguments],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("handler", "signals", "options"),
    [
        ("waits", (signal.SIGINT, signal.SIGINT), ()),
        pytest.param(
            "waits", (signal.SIGINT, signal.SIGTERM), ("--log-format", "json"), marks=pytest.mark.slow
        ),
        pytest.param("waits", (signal.SIGTERM, signal.SIGTERM), (), marks=pytest.mark.slow),
        pytest.param("blocks", (signal.SIGINT, signal.SIGINT), (), marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once(
    dimesh: Run, tmp_path: Path, handler: str, signals: tuple[int, int], options: tuple[str, ...]
) -> None:
    """Also if a handler swallows its cancellation, or blocks the event loop."""
    (tmp_path / "shop.py").write_text(HANGS)
    (tmp_path / "dimesh.toml").write_text(
        f'[bus]\ndrain_timeout = 60\n[[handlers]]\ntopic = "orders"\ncall = "shop:{handler}"\nstart = "earliest"\n'
    )
    dimesh("publish", "orders", stdin='{"event_type": "a.b"}')
    process = start(tmp_path, *options, "run")
    assert process.stderr is not None
    wait_for((tmp_path / "handling").exists)
    process.send_signal(signals[0])
    if handler == "waits":
        while b"stopping" not in process.stderr.readline():
            assert process.poll() is None
    else:
        time.sleep(0.2)  # nothing can be said while the loop is blocked
        assert process.poll() is None
    process.send_signal(signals[1])
    began = time.monotonic()
    assert process.wait(20) == ExitCode.INTERRUPTED
    assert time.monotonic() - began < 2
    last = process.stderr.read().decode().splitlines()[-1]
    process.stderr.close()
    said = json.loads(last)["error"] if options else last.removeprefix("error: ")
    assert said == "ended at once by a second signal while stopping"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("tail", "orders", "--follow"), ("cdc", "run"), ("webhooks", "serve")])
def test_every_command_that_runs_until_a_signal_ends_by_one(
    dimesh: Run, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    from .test_log import PLUGIN

    install(tmp_path, "far", PLUGIN.replace("await self.ask()", "...").replace(
        "    async def close", "    def hint(self, kind): ...\n    def webhooks(self, hint, path): return None\n    async def close"
    ))  # fmt: skip
    (tmp_path / "dimesh.toml").write_text(
        '[[sources]]\ndriver = "far"\nname = "away"\nobjects = ["thing"]\noptions = { port = 1 }\n'
    )
    dimesh("publish", "orders", stdin='{"event_type": "a.b"}')
    process = subprocess.Popen(
        [sys.executable, "-m", "dimesh", "--output", "json", *arguments, *(("--port", "0") if "serve" in arguments else ())],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == (ExitCode.INTERRUPTED if "tail" in arguments else 0), errors
    assert b"Traceback" not in errors


# -- sys.exit of somebody else ---------------------------------------------------------------------

EXITS = {
    "at import": "import sys\nsys.exit(0)\n",
    "silently": "raise SystemExit\n",
    "in a command": """
import sys
from dimesh.spi import hookimpl
class Plugin:
    @hookimpl
    def dimesh_commands(self, cli):
        @cli.command()
        def leave():
            sys.exit(0)
plugin = Plugin()
""",
    "in a hook": """
import sys
from dimesh.spi import hookimpl
class Plugin:
    @hookimpl
    def dimesh_commands(self, cli):
        sys.exit(0)
plugin = Plugin()
""",
}


@pytest.mark.parametrize(
    ("where", "arguments"),
    [
        ("in a command", ["leave"]),
        pytest.param("in a hook", ["leave"], marks=pytest.mark.slow),
        pytest.param("at import", ["leave"], marks=pytest.mark.slow),
        pytest.param("silently", ["leave"], marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_plugin_that_exits_is_no_success(
    dimesh: Run, tmp_path: Path, where: str, arguments: list[str]
) -> None:
    install(tmp_path, "leaving", EXITS[where], "dimesh.hooks")
    ended = dimesh(*arguments, code=None)
    assert ended.code not in (0, None)
    assert ended.err.splitlines()[-1].startswith(("error: ", "see "))
    if where == "in a command":
        assert "sys.exit(0)" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        '[[handlers]]\ntopic = "t"\ncall = "leaving:ship"\n',
        '[mesh]\ninterceptors = ["leaving:wrap"]\n[[handlers]]\ntopic = "t"\ncall = "json:dumps"\n',
        '[[handlers]]\ntopic = "t"\ncall = "json:dumps"\nfatal = ["leaving:Error"]\n',
        '[[sources]]\ndriver = "leaving"\nname = "x"\nobjects = ["y"]\n',
        '[bus]\ndriver = "leaving"\n[[handlers]]\ntopic = "t"\ncall = "json:dumps"\n',
    ],
    ids=["handler", "interceptor", "exception", "source", "bus"],
)
def test_a_module_that_exits_is_no_success(dimesh: Run, tmp_path: Path, settings: str) -> None:
    group = "dimesh.bus" if "[bus]" in settings else "dimesh.cdc"
    install(tmp_path, "leaving", EXITS["at import"], group)
    (tmp_path / "dimesh.toml").write_text(settings)
    ended = dimesh("run", code=None)
    assert ended.code in (ExitCode.FAILED, ExitCode.CONFIGURATION, ExitCode.PLUGIN)
    assert "SystemExit" in ended.err or "sys.exit" in ended.err
