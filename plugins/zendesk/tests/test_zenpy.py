"""zenpy, a client that is not ours, does its usual work against the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import requests
import trustme

from dimesh_zendesk.sandbox import API_TOKEN, EMAIL, ZendeskSandbox

zenpy = pytest.importorskip("zenpy")

T = TypeVar("T")


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[tuple[ZendeskSandbox, Any]]:
    """Yield a sandbox with TLS, and zenpy: it builds its address of a subdomain and a domain, and always of https."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    pem = str(tmp_path / "server.pem")
    async with ZendeskSandbox(exports_a_minute=1_000, certificate=(pem, pem)) as made:
        session = requests.Session()
        session.trust_env = False  # another certificate authority, say
        session.verify = str(tmp_path / "ca.pem")
        client = zenpy.Zenpy(
            subdomain="127",
            domain=f"0.0.1:{made.port}",
            email=EMAIL,
            token=API_TOKEN,
            session=session,
            timeout=10,
        )
        yield made, client
        session.close()


async def run(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


async def test_tickets_users_and_organizations(secure: tuple[ZendeskSandbox, Any]) -> None:
    from zenpy.lib.api_objects import Comment, Organization, Ticket, User

    sandbox, client = secure
    made = await run(
        lambda: client.tickets.create(Ticket(subject="From zenpy", comment=Comment(body="hello")))
    )
    id = made.ticket.id if hasattr(made, "ticket") else made.id
    ticket = await run(lambda: client.tickets(id=id))
    assert ticket.subject == "From zenpy"
    ticket.subject = "Changed"
    await run(lambda: client.tickets.update(ticket))
    assert sandbox.account.get("tickets", id)["subject"] == "Changed"
    assert [c.body for c in await run(lambda: list(client.tickets.comments(ticket=id)))] == ["hello"]
    audits = await run(lambda: list(client.tickets.audits(ticket=id)))
    assert len(audits) == 2
    user = await run(lambda: client.users.create(User(name="Ada", email="ada@example.com")))
    assert (await run(lambda: client.users(id=user.id))).name == "Ada"
    organization = await run(lambda: client.organizations.create(Organization(name="Acme")))
    assert (await run(lambda: client.organizations(id=organization.id))).name == "Acme"
    await run(lambda: client.tickets.delete(ticket))
    assert sandbox.account.get("tickets", id)["status"] == "deleted"


async def test_incremental_exports(secure: tuple[ZendeskSandbox, Any]) -> None:
    sandbox, client = secure
    ids = [sandbox.account.create("tickets", {"subject": f"t{n}"})["id"] for n in range(12)]
    sandbox.account.advance(120)
    found = await run(
        lambda: [t.id for t in client.tickets.incremental(start_time=1, paginate_by_time=False)]
    )
    assert found == ids
    events = await run(lambda: [e.ticket_id for e in client.tickets.events(start_time=1)])
    assert events == ids
    users = [sandbox.account.create("users", {"name": f"u{n}"})["id"] for n in range(3)]
    sandbox.account.advance(120)
    assert (
        await run(lambda: [u.id for u in client.users.incremental(start_time=1, paginate_by_time=False)])
        == users
    )


async def test_lists_page_by_offset_and_by_cursor(secure: tuple[ZendeskSandbox, Any]) -> None:
    sandbox, client = secure
    ids = [sandbox.account.create("groups", {"name": f"g{n}"})["id"] for n in range(230)]
    assert await run(lambda: [g.id for g in client.groups()]) == ids
    assert await run(lambda: [g.id for g in client.groups(cursor_pagination=True)]) == ids
    assert (await run(lambda: client.users.me())).role == "admin"
