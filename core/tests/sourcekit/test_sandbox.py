"""The base of sandboxes, by a small one: who may use it, what may be planned, and how its server breaks connections."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dimesh.errors import ListenError
from dimesh.sourcekit.sandbox import (
    Action,
    Control,
    Controls,
    Fault,
    FaultPlan,
    Page,
    Row,
    RowCount,
    Sandbox,
    SimulatedState,
    TransportFault,
    bounded_count,
    command_parser,
    run_sandbox,
)
from dimesh_contracts.waiting import deadline, until

JSON = {"Content-Type": "application/json"}


class ToyFault(Fault, kw_only=True, forbid_unknown_fields=True):
    kind: Literal[TransportFault, "busy", "empty"]
    path: str = "/api/"


class Seed(msgspec.Struct, forbid_unknown_fields=True):
    count: RowCount


class ToySandbox(Sandbox[ToyFault]):
    title = "Toy <sandbox>"

    def __init__(self, port: int = 0) -> None:
        self.toys = SimulatedState(seed=7)
        self.rows: dict[str, Row] = {}
        super().__init__(self.toys, FaultPlan(ToyFault), port=port)

    @property
    def announcement(self) -> str:
        return f"{self.title}: {self.url}"

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/api/{path:path}", self._api, methods=["GET", "POST"])]

    async def _api(self, request: Request) -> Response:
        self.requests.append((request.method, request.url.path))
        return await self.answer(request, self._respond)

    async def _respond(self, request: Request) -> Response:
        await request.body()
        return JSONResponse({"rows": list(self.rows)}, headers={"x-toy": "1"})

    def refuse(self, fault: ToyFault) -> Response | None:
        return JSONResponse({"busy": True}, 429) if fault.kind == "busy" else None

    def distort(self, fault: ToyFault, answer: Response) -> Response:
        return JSONResponse({"rows": []})

    def controls(self) -> Controls:
        return {**super().controls(), ("POST", "seed"): Control(self._seed, Seed)}

    def _seed(self, given: Seed) -> None:
        for n in range(given.count):
            self.rows[str(n)] = {"id": str(n), "name": f"toy {n}"}

    def page(self) -> Page:
        create = Action(label="Create", command="records", body={"object": "toy"})
        return Page(title=self.title, note="", id="id", labels=("name",), actions=(create,), row_actions={})

    def names(self) -> Sequence[str]:
        return ["toy"]

    def objects(self, most: int) -> Mapping[str, Sequence[Row]]:
        return {"toy": list(self.rows.values())[:most]}

    def create_record(self, object: str, fields: Row) -> str:
        id = self.toys.random_text(8)
        self.rows[id] = {"id": id, **fields}
        return id

    def update_record(self, object: str, id: str, fields: Row) -> None:
        self.rows[id] |= fields

    def delete_record(self, object: str, id: str) -> None:
        del self.rows[id]


@pytest.fixture
async def toys() -> AsyncIterator[ToySandbox]:
    async with ToySandbox() as made:
        yield made


class Answer:
    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}

    def json(self) -> Any:
        return json.loads(self.body)


async def raw(port: int, head: Sequence[str], body: bytes = b"") -> bytes:
    """What the server sends until the connection ends, for exactly these lines of a request."""
    async with deadline():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write("\r\n".join([*head, "", ""]).encode("latin-1") + body)
            return await reader.read()
        finally:
            writer.close()


async def ask(
    sandbox: ToySandbox, method: str, path: str, body: bytes | None = None, **headers: str
) -> Answer:
    """A request with a connection of its own; ``Content_Type`` stands for ``Content-Type``."""
    given = {"Host": f"127.0.0.1:{sandbox.port}", "Connection": "close"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        given["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return Answer(await raw(sandbox.port, lines, body or b""))


async def command(sandbox: ToySandbox, method: str, name: str, body: Any = None) -> Answer:
    data = json.dumps({} if body is None else body).encode()
    return await ask(sandbox, method, f"/_sandbox/{name}", data, Content_Type="application/json")


# -- strangers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/_sandbox/objects", "/_sandbox/page.js", "/api/rows"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example",
        "127.0.0.1:{port}.evil.example",
        "10.0.0.1",
        "[::2]",
    ],
)
async def test_a_foreign_host_is_refused(toys: ToySandbox, host: str, path: str) -> None:
    """A page of evil.example that lets its own name point to 127.0.0.1 reads nothing."""
    answer = await ask(toys, "GET", path, Host=host.format(port=toys.port))
    assert (answer.status, "Host header" in answer.json()["error"]) == (403, True)
    assert toys.requests == []


async def test_a_request_names_exactly_one_host(toys: ToySandbox) -> None:
    for lines in ([], ["Host: 127.0.0.1", "Host: evil.example"], ["Host: "]):
        answer = Answer(await raw(toys.port, ["GET /api/rows HTTP/1.1", *lines, "Connection: close"]))
        assert answer.status in (400, 403)
    answer = Answer(await raw(toys.port, ["GET /api/rows HTTP/1.0"]))
    assert answer.status == 403
    assert toys.requests == []


async def test_every_name_of_loopback_is_served(toys: ToySandbox) -> None:
    for host in (
        "127.0.0.1",
        f"127.0.0.1:{toys.port}",
        "localhost",
        f"LocalHost:{toys.port}",
        f"[::1]:{toys.port}",
    ):
        assert (await ask(toys, "GET", "/api/rows", Host=host)).status == 200


@pytest.mark.parametrize("path", ["/_sandbox/faults", "/api/rows"])
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        "https://127.0.0.1:{port}",
        "http://localhost:{port}",
        "",
    ],
)
async def test_a_foreign_origin_is_refused(toys: ToySandbox, origin: str, path: str) -> None:
    body = json.dumps({"kind": "busy"}).encode()
    answer = await ask(toys, "POST", path, body, Origin=origin.format(port=toys.port), **_json())
    assert (answer.status, "other origins" in answer.json()["error"]) == (403, True)
    assert (toys.faults.planned, toys.requests) == ([], [])


async def test_the_own_origin_is_served(toys: ToySandbox) -> None:
    body = json.dumps({"kind": "busy"}).encode()
    for host in ("127.0.0.1", "localhost"):
        at = f"{host}:{toys.port}"
        answer = await ask(toys, "POST", "/_sandbox/faults", body, Host=at, Origin=f"http://{at}", **_json())
        assert answer.status == 200
    assert len(toys.faults.planned) == 2


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", None]
)
@pytest.mark.parametrize(("method", "name"), [("POST", "records"), ("DELETE", "records"), ("POST", "faults")])
async def test_a_command_is_json_only(toys: ToySandbox, kind: str | None, method: str, name: str) -> None:
    """A form, or a request without a preflight, is what any web page could send."""
    headers = {} if kind is None else {"Content_Type": kind}
    body = b'{"object":"toy","kind":"busy","id":"1"}'
    answer = await ask(toys, method, f"/_sandbox/{name}", body, **headers)
    assert (answer.status, "application/json" in answer.json()["error"]) == (415, True)
    assert (await ask(toys, "POST", f"/_sandbox/{name}", **headers)).status == 415
    assert (toys.rows, toys.faults.planned) == ({}, [])


async def test_a_body_is_bounded_while_it_is_read(toys: ToySandbox) -> None:
    large = b" " * 1_000_001
    assert (await ask(toys, "POST", "/_sandbox/records", large, **_json())).status == 413
    assert (await ask(toys, "POST", "/api/rows", large)).status == 413
    # Without a length there is nothing to refuse before it was read.
    lines = ["POST /api/rows HTTP/1.1", f"Host: 127.0.0.1:{toys.port}", "Transfer-Encoding: chunked"]
    async with deadline():
        reader, writer = await asyncio.open_connection("127.0.0.1", toys.port)
        writer.write("\r\n".join([*lines, "", ""]).encode())
        for _ in range(17):
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()


# -- commands ----------------------------------------------------------------------------------------


async def test_more_rows_than_the_bound_are_refused(toys: ToySandbox) -> None:
    for count in (10**9, 1_000_001):
        answer = await command(toys, "POST", "seed", {"count": count})
        assert (answer.status, "1000000" in answer.json()["error"]) == (400, True)
    assert (await command(toys, "POST", "seed", {"count": 0})).status == 400
    assert toys.rows == {}
    assert (await command(toys, "POST", "seed", {"count": 60})).status == 200
    shown = (await ask(toys, "GET", "/_sandbox/objects")).json()["toy"]
    assert (len(toys.rows), len(shown)) == (60, 50)


async def test_records_are_changed_by_hand(toys: ToySandbox) -> None:
    made = (await command(toys, "POST", "records", {"object": "toy", "fields": {"name": "a"}})).json()
    key = {"object": "toy", **made}
    assert (await command(toys, "PATCH", "records", {**key, "fields": {"name": "b"}})).status == 200
    assert toys.rows == {made["id"]: {"id": made["id"], "name": "b"}}
    assert (await command(toys, "DELETE", "records", key)).status == 200
    assert toys.rows == {}
    assert (await command(toys, "DELETE", "records", key)).status == 400
    answer = await command(toys, "POST", "records", {"object": "car"})
    assert (answer.status, "there are: toy" in answer.json()["error"]) == (400, True)


async def test_a_wrong_command_says_what_there_is(toys: ToySandbox) -> None:
    answer = await command(toys, "POST", "nobody")
    assert (answer.status, "POST faults" in answer.json()["error"]) == (400, True)
    answer = await command(toys, "POST", "faults", {"knd": "busy"})
    assert (answer.status, "there are: kind, path, times, seconds" in answer.json()["error"]) == (400, True)
    deep = b'{"object":"toy","fields":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001
    assert (await ask(toys, "POST", "/_sandbox/records", deep, **_json())).status == 400
    assert (await ask(toys, "POST", "/_sandbox/records", b"{", **_json())).status == 400
    assert (await ask(toys, "PUT", "/_sandbox/records", b"{}", **_json())).status == 405


async def test_the_clock_moves_within_bounds(toys: ToySandbox) -> None:
    before = toys.toys.now()
    answer = await command(toys, "POST", "clock", {"advance": 3_600})
    assert answer.json()["now"] >= before + 3_600
    for wrong in (1e30, -1e30, "1"):
        assert (await command(toys, "POST", "clock", {"advance": wrong})).status == 400
    ten_years = 10 * 366 * 86_400
    assert (await command(toys, "POST", "clock", {"advance": ten_years})).status == 400
    assert (toys.toys.skew, (await command(toys, "POST", "clock", {"advance": -ten_years})).status) == (
        3_600,
        200,
    )


# -- faults ------------------------------------------------------------------------------------------


async def test_faults_are_planned_counted_and_cleared(toys: ToySandbox) -> None:
    await command(toys, "POST", "faults", {"kind": "busy", "times": 2})
    statuses = [(await ask(toys, "GET", "/api/rows")).status for _ in range(3)]
    assert statuses == [429, 429, 200]
    await command(toys, "POST", "faults", {"kind": "busy", "times": -1})
    assert {(await ask(toys, "GET", "/api/rows")).status for _ in range(3)} == {429}
    assert (await ask(toys, "DELETE", "/_sandbox/faults")).status == 200
    assert ((await ask(toys, "GET", "/api/rows")).status, toys.faults.planned) == (200, [])
    toys.rows["1"] = {"id": "1"}
    toys.faults.plan("empty")
    assert (await ask(toys, "GET", "/api/rows")).json() == {"rows": []}


@pytest.mark.parametrize(
    "wrong", [{"kind": "nobody"}, {"kind": "busy", "times": 0}, {"kind": "busy", "times": 10**9},
              {"kind": "slow", "seconds": 1e9}, {"kind": "slow", "seconds": -1}, {"kind": "busy", "status": 1}],
)  # fmt: skip
async def test_a_fault_that_cannot_be_planned(toys: ToySandbox, wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        toys.faults.plan(**wrong)
    assert (await command(toys, "POST", "faults", wrong)).status == 400
    assert toys.faults.planned == []


def test_a_fault_applies_to_paths() -> None:
    plan = FaultPlan(ToyFault)
    rows = plan.plan("busy", path="/api/rows", times=-1)
    other = plan.plan("empty")
    assert plan.take("/other") is None
    assert plan.take("/api/rows/1") is rows
    assert plan.take("/api/things") is other
    assert plan.planned == [rows]


async def test_a_reset_is_a_reset(toys: ToySandbox) -> None:
    toys.faults.plan("reset")
    with pytest.raises(ConnectionResetError):
        await ask(toys, "GET", "/api/rows")
    assert (await ask(toys, "GET", "/api/rows")).status == 200


async def test_a_truncated_answer_is_shorter_than_it_says(toys: ToySandbox) -> None:
    whole = await ask(toys, "GET", "/api/rows")
    toys.faults.plan("truncated")
    answer = await ask(toys, "GET", "/api/rows")
    assert (answer.status, answer.headers["x-toy"]) == (200, "1")
    assert answer.body == whole.body[: len(whole.body) // 2]
    assert int(answer.headers["content-length"]) > len(answer.body)


async def test_a_malformed_answer_has_its_length_and_no_json(toys: ToySandbox) -> None:
    toys.faults.plan("malformed")
    answer = await ask(toys, "GET", "/api/rows")
    assert (answer.status, answer.headers["content-type"], "x-toy" in answer.headers) == (
        200,
        "application/json",
        False,
    )
    assert int(answer.headers["content-length"]) == len(answer.body)
    with pytest.raises(json.JSONDecodeError):
        answer.json()


async def test_a_slow_answer_is_an_ordinary_one(toys: ToySandbox) -> None:
    toys.faults.plan("slow", seconds=0.2)
    began = asyncio.get_running_loop().time()
    assert (await ask(toys, "GET", "/api/rows")).status == 200
    assert asyncio.get_running_loop().time() - began >= 0.2


async def test_a_request_that_hangs_stops_nobody(toys: ToySandbox) -> None:
    toys.faults.plan("hang")
    hanging = asyncio.create_task(ask(toys, "GET", "/api/rows"))
    await until(lambda: not toys.faults.planned)
    assert (await ask(toys, "GET", "/api/rows")).status == 200
    assert not hanging.done()
    async with deadline():
        await toys.stop()
        await asyncio.wait({hanging})
    assert hanging.exception() is not None  # the connection ended without an answer


# -- the page ----------------------------------------------------------------------------------------


async def test_the_page_runs_only_its_own_script(toys: ToySandbox) -> None:
    page = await ask(toys, "GET", "/")
    text = page.body.decode()
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Toy &lt;sandbox&gt;" in text
    assert "Toy <sandbox>" not in text
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
        "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    # Nothing that the policy would block: no script, style or handler within the page.
    assert not re.search(r"<script(?![^>]* src=)|<style|\bon\w+=|\bstyle=", text)
    for path, kind in (("/_sandbox/page.js", "text/javascript"), ("/_sandbox/page.css", "text/css")):
        assert f'"{path}"' in text
        asset = await ask(toys, "GET", path)
        assert (asset.status, asset.headers["content-type"].partition(";")[0]) == (200, kind)
        assert asset.headers["x-content-type-options"] == "nosniff"
    script = (await ask(toys, "GET", "/_sandbox/page.js")).body.decode()
    assert "innerHTML" not in script
    described = (await ask(toys, "GET", "/_sandbox/page")).json()
    assert (described["title"], described["actions"][0]["command"]) == ("Toy <sandbox>", "records")


# -- server and command ------------------------------------------------------------------------------


async def test_a_port_in_use(toys: ToySandbox) -> None:
    other = ToySandbox(toys.port)
    with pytest.raises(ListenError, match=rf"cannot listen at 127\.0\.0\.1:{toys.port}: .*another port"):
        await other.start()
    await other.stop()
    assert (await ask(toys, "GET", "/api/rows")).status == 200


async def test_it_starts_again_at_its_port(toys: ToySandbox) -> None:
    port = toys.port
    await toys.stop()
    await toys.start()
    assert toys.port == port
    assert (await ask(toys, "GET", "/api/rows")).status == 200


def test_the_command_ends_with_a_code_where_a_port_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    parser = command_parser("toys", "Run toys.", 1_234)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = run_sandbox(parser, lambda options: ToySandbox(options.port), ["--port", str(port)])
    printed = capsys.readouterr()
    assert (code, printed.out) == (5, "")
    assert printed.err.startswith(f"error: cannot listen at 127.0.0.1:{port}: ")


@pytest.mark.parametrize("text", ["1000000000", "1000001", "-1", "1.5", "ten", "", "٣", "9" * 5_000])
def test_counts_of_the_command_line_are_bounded(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="from 0 to 1,000,000"):
        bounded_count()(text)


def test_without_the_extra_it_says_how_to_get_it() -> None:
    program = "import sys; sys.modules['uvicorn'] = None; import dimesh.sourcekit.sandbox"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "PluginError: a sandbox needs uvicorn: pip install 'dimesh[sandbox]'" in done.stderr


def _json() -> dict[str, str]:
    return {"Content_Type": "application/json"}
