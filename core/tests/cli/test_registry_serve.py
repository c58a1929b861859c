"""``dimesh registry serve``, and the same API on ``dimesh run``, as processes."""

from __future__ import annotations

import base64
import json
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from dimesh.cli.exit_codes import ExitCode

from .processes import eventually, free_port, get, running

SCHEMA = {"schema": '{"type": "object"}', "schemaType": "JSON"}


def call(port: int, path: str, body: Any = None, login: str = "") -> tuple[int, Any]:
    """Return the status and the JSON of an answer; status 0: nobody answers."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", None if body is None else json.dumps(body).encode()
    )
    if login:
        request.add_header("authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, None


def test_the_registry_of_the_settings_is_served_until_sigterm(tmp_path: Path) -> None:
    (tmp_path / "dimesh.toml").write_text(
        "[registry.serve]\nlisten = '127.0.0.1:1'\nusers = { billing = 'hunter2' }\ntokens = ['s3cret']\n"
    )
    port = free_port()
    with running(tmp_path, "registry", "serve", "--listen", f"127.0.0.1:{port}") as process:
        eventually(lambda: call(port, "/subjects")[0] == 401)
        registered = call(port, "/subjects/a%2Fb/versions", SCHEMA, "billing:hunter2")
        assert registered[0] == 200
        assert registered[1]["id"] == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == ExitCode.OK
    # Another process on the same file has it.
    with running(tmp_path, "registry", "serve", "--listen", f"127.0.0.1:{port}"):
        assert eventually(lambda: call(port, "/subjects", login="billing:hunter2")[1]) == ["a/b"]
    log = (tmp_path / "log").read_text()
    assert "credentials are missing" in log
    assert not any(secret in log for secret in ("hunter2", "s3cret"))


@pytest.mark.slow
def test_credentials_come_from_the_environment(
    dimesh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the command that serves needs them, and it does not start without: everybody could log in."""
    (tmp_path / "dimesh.toml").write_text(
        "[registry.serve]\nusers = { billing = '${BILLING_PASSWORD}' }\ntokens = ['${TOKEN}']\n"
    )
    dimesh("schema", "list")
    missing = dimesh("registry", "serve", code=3, TOKEN="s3cret")
    assert "registry.serve.users.billing needs the environment variable BILLING_PASSWORD" in missing.err
    empty = dimesh("registry", "serve", code=3, TOKEN="s3cret", BILLING_PASSWORD="")
    assert "registry.serve.users.billing is empty" in empty.err
    shown = dimesh("config", "show", TOKEN="s3cret")
    assert "s3cret" not in shown.out + missing.err + empty.err
    monkeypatch.setenv("BILLING_PASSWORD", "hunter2")
    monkeypatch.setenv("TOKEN", "s3cret")
    port = free_port()
    with running(tmp_path, "registry", "serve", "--listen", f"127.0.0.1:{port}"):
        eventually(lambda: call(port, "/subjects")[0] == 401)
        assert call(port, "/subjects", login="billing:hunter2") == (200, [])


@pytest.mark.slow
def test_run_serves_the_registry_beside_health_if_it_is_asked_to(tmp_path: Path) -> None:
    port = free_port()
    serve = "[registry.serve]\nmount = true\n"
    (tmp_path / "dimesh.toml").write_text(f"[http]\nlisten = '127.0.0.1:{port}'\n{serve}")
    with running(tmp_path, "run"):
        eventually(lambda: get(port, "/readyz")[0] == 200)
        assert call(port, "/registry/subjects/a%2Fb/versions", SCHEMA)[0] == 200
        assert call(port, "/registry/subjects") == (200, ["a/b"])
        assert call(port, "/registry/nothing") == (
            404,
            {"error_code": 404, "message": "there is no such path in this registry"},
        )
