"""Checking what the credentials may read, and what an administrator must change where they may not."""

from __future__ import annotations

from typing import Final

from dimesh.errors import CredentialsError, SourceObjectError, SourceUnavailableError
from dimesh.sourcekit.budget import Priority
from dimesh.spi.cdc import CheckResult
from dimesh_zendesk.catalogue import RESOURCES, Resource, Way
from dimesh_zendesk.client import Client, MissingError
from dimesh_zendesk.lists import together
from dimesh_zendesk.tokens import LEGACY
from dimesh_zendesk.watch import Watches

ADMIN: Final = (
    "incremental exports need an administrator, and the credentials act for a user with the role {role}: give this user the role "
    "Administrator in the Admin Center (People → Team members), or use the credentials of one"
)
_LIKE: Final = {
    "tickets": "tickets.json",
    "users": "users.json",
    "organizations": "organizations.json",
    "ticket_events": "tickets.json",
    "ticket_metric_events": "ticket_metrics.json",
    "ticket_audits": "ticket_audits.json",
    "ticket_comments": "tickets.json",
    "ticket_metrics": "ticket_metrics.json",
    "side_conversations": "tickets.json",
    "user_identities": "users.json",
}
"""The lists that need the same permission as an export, and cost none of its few requests."""


async def check(client: Client, watches: Watches) -> CheckResult:
    """Return what can be captured, and what to change where something cannot."""
    try:
        found = await client.get("users/me.json", {}, Priority.CHECK, "the user of the credentials")
    except (SourceObjectError, CredentialsError, SourceUnavailableError) as error:
        text = str(error)
        return CheckResult(False, dict.fromkeys(RESOURCES, text), [text])
    user = found.get("user") or {}
    role = str(user.get("role") or "")
    # With credentials that it does not accept, this address answers as an anonymous user (airbytehq/airbyte, recorded).
    if not user.get("id"):
        text = "Zendesk does not know the user of these credentials: check them, and that the user is active"
        return CheckResult(False, dict.fromkeys(RESOURCES, text), [text])
    obstacles = await together([_obstacle(client, resource, role) for resource in RESOURCES.values()])
    objects = dict(zip(RESOURCES, obstacles, strict=True))
    problems = [ADMIN.format(role=role)] if role != "admin" else []
    if problem := await watches.problem():
        problems.append(problem)
    blocked = bool(problems)
    if client.credentials.legacy:
        problems.append(LEGACY)
    return CheckResult(not blocked, objects, problems)


async def _obstacle(client: Client, resource: Resource, role: str) -> str:
    """Return why an object cannot be read; empty: it can."""
    exported = resource.path.startswith("incremental/") or resource.way is Way.CHILD
    if role != "admin" and exported:
        return ADMIN.format(role=role)
    path = _LIKE.get(resource.name, resource.path)
    params = {"page[size]": "1"} if resource.paged or resource.name in _LIKE else {}
    if resource.way is Way.LISTED:
        params |= resource.params
    try:
        await client.get(path, params, Priority.CHECK, resource.name)
    except MissingError as error:
        return f"{error}: the account's plan may lack it"
    except (SourceObjectError, CredentialsError, SourceUnavailableError) as error:
        return str(error)
    return ""
