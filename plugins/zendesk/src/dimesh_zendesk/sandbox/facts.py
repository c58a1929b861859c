"""What Zendesk's lists and rows are like; nothing here comes from the connector's own table.

The fields of tickets are those of recorded rows; the paths and limits are from the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from dimesh.sourcekit.sandbox import Row

SCRUB_AFTER: Final = 30 * 86_400
"""The number of seconds after which a deleted ticket is shown again without content (recorded)."""
OFFSET_PAGES: Final = 100
"""The number of pages that offset paging reaches (airbytehq/airbyte #16163)."""
MOST_IDS: Final = 100
"""The number of ids that ``show_many`` takes (recorded: TooManyValues)."""
TAGS: Final = 20_000


class ListFacts(NamedTuple):
    """One list of the API."""

    object: str
    field: str
    paged: bool = True
    stamps: bool = True
    """Whether rows have ``updated_at``: some memberships lack it (tap-zendesk 1.2.2)."""
    hides_deleted: bool = False
    """Whether deleted rows stay, and are hidden unless ``exclude_deleted=false`` (groups)."""


LISTS: Final[Mapping[str, ListFacts]] = {
    "groups": ListFacts("groups", "groups", hides_deleted=True),
    "group_memberships": ListFacts("group_memberships", "group_memberships"),
    "organization_memberships": ListFacts(
        "organization_memberships", "organization_memberships", stamps=False
    ),
    "organizations": ListFacts("organizations", "organizations"),
    "ticket_fields": ListFacts("ticket_fields", "ticket_fields"),
    "user_fields": ListFacts("user_fields", "user_fields"),
    "organization_fields": ListFacts("organization_fields", "organization_fields"),
    "ticket_forms": ListFacts("ticket_forms", "ticket_forms", paged=False),
    "macros": ListFacts("macros", "macros"),
    "triggers": ListFacts("triggers", "triggers"),
    "automations": ListFacts("automations", "automations"),
    "views": ListFacts("views", "views"),
    "brands": ListFacts("brands", "brands"),
    "custom_roles": ListFacts("custom_roles", "custom_roles", paged=False),
    "custom_statuses": ListFacts("custom_statuses", "custom_statuses", paged=False),
    "slas/policies": ListFacts("sla_policies", "sla_policies", paged=False),
    "business_hours/schedules": ListFacts("schedules", "schedules", paged=False),
    "tags": ListFacts("tags", "tags"),
    "suspended_tickets": ListFacts("suspended_tickets", "suspended_tickets"),
    "satisfaction_ratings": ListFacts("satisfaction_ratings", "satisfaction_ratings"),
    "skips": ListFacts("ticket_skips", "skips"),
    "activities": ListFacts("ticket_activities", "activities"),
    "audit_logs": ListFacts("audit_logs", "audit_logs"),
    "deleted_users": ListFacts("deleted_users", "deleted_users"),
    "users": ListFacts("users", "users"),
    "tickets": ListFacts("tickets", "tickets"),
}
"""The lists by path."""

OBJECTS: Final = tuple(dict.fromkeys((*(found.object for found in LISTS.values()), "ticket_metric_events")))
OF_CALLER: Final = ("views", "brands", "ticket_activities")
"""The objects of which a user sees those that are theirs (reference)."""

TICKET: Final[Row] = {
    "url": "", "external_id": None, "via": {"channel": "api", "source": {"from": {}, "to": {}, "rel": None}},
    "type": None, "subject": "", "raw_subject": "", "description": "", "priority": None, "status": "new",
    "recipient": None, "requester_id": 1, "submitter_id": 1, "assignee_id": None, "organization_id": None,
    "group_id": None, "collaborator_ids": [], "follower_ids": [], "email_cc_ids": [], "forum_topic_id": None,
    "problem_id": None, "has_incidents": False, "is_public": True, "due_at": None, "tags": [], "custom_fields": [],
    "satisfaction_rating": None, "sharing_agreement_ids": [], "custom_status_id": None, "fields": [],
    "followup_ids": [], "ticket_form_id": None, "brand_id": None, "allow_channelback": False,
    "allow_attachments": True, "from_messaging_channel": False,
}  # fmt: skip
"""The fields of a recorded ticket."""
USER: Final[Row] = {
    "url": "", "name": "", "email": None, "time_zone": "UTC", "phone": None, "photo": None, "locale": "en-US",
    "organization_id": None, "role": "end-user", "verified": False, "external_id": None, "tags": [], "alias": None,
    "active": True, "shared": False, "last_login_at": None, "details": None, "notes": None, "suspended": False,
    "user_fields": {},
}  # fmt: skip
ORGANIZATION: Final[Row] = {
    "url": "", "name": "", "shared_tickets": False, "shared_comments": False, "external_id": None,
    "domain_names": [], "details": None, "notes": None, "group_id": None, "tags": [], "organization_fields": {},
}  # fmt: skip
TEMPLATES: Final[Mapping[str, Row]] = {"tickets": TICKET, "users": USER, "organizations": ORGANIZATION}

SCOPES: Final[Mapping[str, str]] = {
    "ticket_audits": "read",  # tickets:read is not enough (reference)
    "tickets": "tickets:read", "users": "users:read", "organizations": "organizations:read",
}  # fmt: skip
"""The scope that an OAuth token needs for a list; ``read`` covers all."""

REMOVED: Final[Mapping[str, Any]] = {"name": "Permanently Deleted User", "email": None, "phone": None}
"""What becomes of a user that is deleted for good (reference)."""
