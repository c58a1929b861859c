"""Failures of Zendesk's API that can be planned."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from dimesh.sourcekit.sandbox import Fault, Status, TransportFault

Kind = (
    TransportFault
    | Literal[
        "rate_limit",
        "error",
        "too_heavy",
        "unauthorized",
        "forbidden",
        "empty_forbidden",
        "missing",
        "same_cursor",
    ]
)


class ZendeskFault(Fault, kw_only=True, forbid_unknown_fields=True):
    """One kind of failure, for the next requests.

    ``too_heavy`` is a 504 for export pages of more than ``page`` rows. ``empty_forbidden`` is a 403 with the type of a page and
    no body (airbytehq/airbyte #84353). ``same_cursor`` is an export page that gives its own cursor as the next one (no source).
    """

    kind: Kind
    path: str = "/api/"
    status: Status = 500
    """The HTTP status of ``error`` and of ``proxy``."""
    retry_after: Annotated[float, Meta(ge=0.0)] | None = None
    """The header ``Retry-After``; None: there is none."""
    page: Annotated[int, Meta(ge=1)] = 250
    """The largest page that ``too_heavy`` answers."""

    def error(self) -> tuple[int, Any, dict[str, str]] | None:
        """Return status, body and headers of an error answer; None if the fault is not one."""
        headers = {"retry-after": f"{self.retry_after:g}"} if self.retry_after is not None else {}
        match self.kind:
            case "rate_limit":
                text = "Number of allowed incremental ticket export API requests per minute exceeded"
                return 429, {"error": "APIRateLimitExceeded", "description": text}, headers
            case "error":
                return self.status, {"error": {"title": "Sorry", "message": "Something went wrong."}}, headers
            case "unauthorized":  # recorded
                return (
                    401,
                    {"error": "Couldn't authenticate you"},
                    {"www-authenticate": 'Basic realm="Web Password"'},
                )
            case "forbidden":  # one of the recorded shapes
                text = "You do not have access to this page. Please contact the account owner of this help desk for further help."
                return 403, {"error": {"title": "Forbidden", "message": text}}, {}
            case "missing":
                return 404, {"error": "RecordNotFound", "description": "Not found"}, {}
        return None
