"""The Zendesk objects that can be captured: how they are read, and what their lists leave out.

Sources are named as *reference* (Zendesk's OpenAPI document and developer pages) or ``owner/repository #number``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from dimesh.errors import SourceObjectError


class Way(Enum):
    """How the changes of an object are found."""

    CURSOR = "cursor"
    """A cursor based export: sorted by time and id, nothing twice."""
    TIMED = "timed"
    """A time based export: pages overlap within a second."""
    LATE = "late"
    """A list from a time on, whose rows appear minutes after their time."""
    LISTED = "listed"
    """A list of all rows, which is read again and compared."""
    CHILD = "child"
    """Lists below the rows of a cursor based export, which are read when such a row changes."""


class Deletes(Enum):
    """How the deletes of an object are known."""

    EXPORT = "export"
    """Rows of the export say so; a row that is absent elsewhere, or answers 404, may still exist."""
    ABSENT = "absent"
    """A row that a complete list lacks and that answers 404 is deleted."""
    CALLER = "caller"
    """As ABSENT, but lists and rows depend on the user that asks: only as long as that is the same one."""
    NEVER = "never"
    """They are not known: the list is cut, or its rows expire."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One type of object."""

    name: str
    way: Way
    path: str
    """The path of the export or list below ``/api/v2/``; ``{}`` stands for the id of a parent."""
    rows: str = ""
    """The field of an answer that holds the rows; by default the name."""
    key: str = "id"
    """The field of the primary key."""
    stamp: str = "updated_at"
    """The field with the time of the last change."""
    params: Mapping[str, str] = field(default_factory=dict)
    """The parameters of each request."""
    all: str = ""
    """The path of a list of all rows, for the snapshot of an object whose export could leave rows out."""
    many: str = ""
    """The path that returns up to 100 rows by their ids."""
    single: str = ""
    """The path of one row; ``{}`` stands for its id."""
    deletes: Deletes = Deletes.EXPORT
    paged: bool = True
    """Whether the list has cursor paging; otherwise one answer has all rows."""
    appends: bool = False
    """Whether rows never change once they are written."""
    parent: str = ""
    """The object whose rows are the parents."""
    events: str = ""
    """The part of webhook event types that stands for the object: ``ticket`` of ``zen:event-type:ticket.created``."""
    window: tuple[str, ...] = ("start_time",)
    """The parameter with the time from which a LATE list is read; a second name is that of its end, as text in RFC 3339."""
    apart: bool = False
    """Whether a refusal concerns one parent only, and must not stop the others."""

    @property
    def field(self) -> str:
        """The field of an answer that holds the rows."""
        return self.rows or self.name


_ALL_TYPES: Final = {"support_type_scope": "all"}  # the default leaves AI-agent tickets out (reference)


def _listed(name: str, path: str = "", **more: Any) -> Resource:
    """Return an object that is listed again, and has a path for each row."""
    path = path or name
    more.setdefault("single", f"{path}/{{}}")
    more.setdefault("deletes", Deletes.ABSENT)
    return Resource(name, Way.LISTED, path, **more)


RESOURCES: Final[Mapping[str, Resource]] = {
    resource.name: resource
    for resource in (
        Resource(
            "tickets", Way.CURSOR, "incremental/tickets/cursor.json", stamp="generated_timestamp", params=_ALL_TYPES,
            many="tickets/show_many.json", single="tickets/{}", events="ticket",
        ),
        Resource(
            "users", Way.CURSOR, "incremental/users/cursor.json", many="users/show_many.json", single="users/{}",
            events="user",
        ),
        # A bulk import gives thousands of organizations the same second, which the export cannot page: all come from the list.
        Resource(
            "organizations", Way.TIMED, "incremental/organizations.json", all="organizations.json",
            many="organizations/show_many.json", single="organizations/{}", deletes=Deletes.ABSENT, events="organization",
        ),
        Resource(
            "ticket_events", Way.TIMED, "incremental/ticket_events.json", stamp="timestamp",
            params={**_ALL_TYPES, "include": "comment_events"}, deletes=Deletes.NEVER, appends=True, events="ticket",
        ),
        # Its rows appear behind later ones (estuary/connectors #5205).
        Resource(
            "ticket_metric_events", Way.LATE, "incremental/ticket_metric_events.json", stamp="time", deletes=Deletes.NEVER,
            appends=True, events="ticket", paged=False,
        ),
        Resource(
            "satisfaction_ratings", Way.LATE, "satisfaction_ratings.json", single="satisfaction_ratings/{}",
            deletes=Deletes.NEVER, events="ticket",
        ),
        Resource(
            "ticket_skips", Way.LATE, "skips.json", rows="skips", stamp="created_at", deletes=Deletes.NEVER, appends=True,
        ),
        Resource(
            "ticket_activities", Way.LATE, "activities.json", rows="activities", stamp="created_at",
            deletes=Deletes.NEVER, params={}, window=("since",),
        ),
        Resource(
            "audit_logs", Way.LATE, "audit_logs.json", stamp="created_at", deletes=Deletes.NEVER, appends=True,
            window=("filter[created_at][]", "filter[created_at][]"),
        ),
        _listed("groups", "groups", params={"exclude_deleted": "false"}),
        _listed("group_memberships"),
        _listed("organization_memberships"),
        _listed("ticket_fields"),
        _listed("user_fields"),
        _listed("organization_fields"),
        _listed("ticket_forms", paged=False),
        _listed("macros"),
        _listed("triggers"),
        _listed("automations"),
        _listed("views", deletes=Deletes.CALLER),
        _listed("brands", deletes=Deletes.CALLER),
        _listed("custom_roles", paged=False),
        _listed("custom_statuses", paged=False),
        _listed("sla_policies", "slas/policies", paged=False),
        _listed("schedules", "business_hours/schedules", paged=False),
        # The 20,000 most popular of 60 days (reference).
        _listed("tags", key="name", deletes=Deletes.NEVER, single=""),
        # They have ids of their own, and are deleted unreviewed after 14 days (reference).
        _listed("suspended_tickets", deletes=Deletes.ABSENT),
        Resource(
            "ticket_comments", Way.CHILD, "tickets/{}/comments.json", rows="comments", parent="tickets", events="ticket",
            deletes=Deletes.NEVER,
        ),
        # Audits of archived tickets do not page (reference).
        Resource(
            "ticket_audits", Way.CHILD, "tickets/{}/audits.json", rows="audits", parent="tickets", events="ticket",
            deletes=Deletes.NEVER, appends=True, stamp="created_at",
        ),
        Resource(
            "ticket_metrics", Way.CHILD, "", rows="metric_sets", parent="tickets", events="ticket", deletes=Deletes.NEVER,
            params={"include": "metric_sets"},
        ),
        Resource(
            "side_conversations", Way.CHILD, "tickets/{}/side_conversations.json", parent="tickets", events="ticket",
            deletes=Deletes.NEVER, apart=True,
        ),
        Resource(
            "user_identities", Way.CHILD, "users/{}/identities.json", rows="identities", parent="users", events="user",
            deletes=Deletes.NEVER,
        ),
    )
}  # fmt: skip
"""The objects by name."""


def resource_of(name: str) -> Resource:
    """Return an object by its name.

    Raises:
        SourceObjectError: there is none.
    """
    found = RESOURCES.get(name)
    if found is None:
        raise SourceObjectError(
            f"the Zendesk source cannot capture the object {name!r:.80}; it can capture: {', '.join(RESOURCES)}"
        )
    return found
