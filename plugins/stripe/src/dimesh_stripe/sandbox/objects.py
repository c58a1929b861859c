"""The answers of Stripe's v1 API about objects and events."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from dimesh.sourcekit.sandbox import Row
from dimesh_stripe.descriptions import api
from dimesh_stripe.sandbox import facts
from dimesh_stripe.sandbox.account import RETENTION, Account
from dimesh_stripe.sandbox.timeline import StripeRefused, Timeline, page

_MOST_TYPES: Final = 20


def object_of(path: str) -> str | None:
    """Return the name of the object that a path below ``/v1/`` is about; None if the API does not have this path."""
    for kind, routes in (("lists", facts.LISTS), ("reads", facts.READS)):
        if (found := facts.find(routes, path)) is not None:
            return str(api()[kind][found[0]]["objects"][0])
    parts = path.split("/")
    # The list in a customer or charge has an address that the OpenAPI document no longer has.
    owners = {"customers": "customer", "charges": "charge"}
    if len(parts) == 3 and parts[2] in facts.NESTED.get(owners.get(parts[0], ""), ()):
        return owners[parts[0]]
    return None


def answer_objects(
    account: Account, method: str, path: str, params: Row, key: str | None
) -> tuple[Row, dict[str, str]]:
    """Answer a request for objects; return the body and additional headers.

    Args:
        account: the account that the request acts on.
        method: the method of the request.
        path: the path of the request below ``/v1/``, quoted.
        params: the parameters of query and body.
        key: the idempotency key of the request.

    Raises:
        StripeRefused: as Stripe would refuse the request.
    """
    unknown = StripeRefused(404, f"Unrecognized request URL ({method}: /v1/{path}).")
    if (found := facts.find(facts.LISTS, path)) is not None:
        template, holes = found
        name = api()["lists"][template]["objects"][0]
        if method == "GET":
            return _list(account, template, holes, params), {}
        if method == "DELETE" or name in facts.UNCHANGED:
            raise unknown
        return _write(account, name, None, path, {**params, **_parents(template, holes)}, key)
    if (found := facts.find(facts.READS, path)) is not None:
        template, holes = found
        names = api()["reads"][template]["objects"]
        if path in account.singles or template in facts.SINGLES:
            return account.singles.get(path, {"object": names[0]}), {}
        if method == "GET" and names[0] in facts.ENTRIES:
            return account.entry(names[0], holes[-1]), {}
        id = holes[-1]
        name = next((name for name in names if account.has(name, id)), names[0])
        if name in facts.IN_PARENT:
            id = "/".join(holes)
        if method == "GET":
            return account.retrieve(name, id, _expanded(params, "")), {}
        if name in facts.UNCHANGED or (method == "DELETE" and template not in api()["deletes"]):
            if name not in facts.ENDS:
                raise unknown
        if method == "DELETE":
            return account.delete(name, id, key=key), {}
        return _write(account, name, id, path, params, key)
    parts = path.split("/")
    if method == "GET" and len(parts) == 3 and (name := object_of(path)) is not None:
        return _nested_list(account.entries(name, parts[1], parts[2]), params, path), {}
    raise unknown


def _parents(template: str, holes: tuple[str, ...]) -> Row:
    """Return the fields that name the parents in a path."""
    return dict(zip(re.findall(r"{(\w+)}", template), holes, strict=True))


def _expanded(params: Row, prefix: str) -> list[str]:
    """Return the fields of a row that the parameter ``expand`` asks for; of a list, they stand behind ``data.``."""
    given = params.get("expand") or []
    names = given.values() if isinstance(given, Mapping) else given
    return [str(name).removeprefix(prefix).split(".")[0] for name in names if str(name).startswith(prefix)]


def _write(
    account: Account, name: str, id: str | None, path: str, params: Row, key: str | None
) -> tuple[Row, dict[str, str]]:
    # Reference, "Idempotent requests": the first answer is given again, and other parameters are an error.
    if key is not None and key in account.idempotent:
        known, status, row = account.idempotent[key]
        if known != (path, params):
            text = "Keys for idempotent requests can only be used with the same parameters."
            error = StripeRefused(400, text)
            error.body["type"] = "idempotency_error"
            raise error
        return row, {"idempotent-replayed": "true", "idempotency-key": key, "x-status": str(status)}
    if id is not None:
        made = account.update(name, id, params, key=key)
    else:
        made = account.create(name, params, key=key)
    rendered = account.rendered(made)
    if key is not None:
        account.idempotent[key] = ((path, params), 200, json.loads(json.dumps(rendered)))
    return rendered, {}


def _nested_list(items: list[Row], params: Row, path: str) -> Row:
    known = {item["id"]: item for item in items}

    def find(id: str, param: str) -> Row:
        if id not in known:
            raise StripeRefused(400, f"No such item: '{id}'", "resource_missing", param)
        return known[id]

    return page(Timeline(reversed(items)), params, find, path)


def _list(account: Account, template: str, holes: tuple[str, ...], params: Row) -> Row:
    declared = api()["lists"][template]
    for name in params:
        if name not in declared["params"]:
            raise StripeRefused(400, f"Received unknown parameter: {name}", "parameter_unknown", name)
    for name in declared["required"]:
        if not params.get(name):
            raise StripeRefused(400, f"Missing required param: {name}.", "parameter_missing", name)
    path = template.format(**_parents(template, holes))
    if template in facts.IN_ROWS:
        place = facts.IN_ROWS[template]
        owner = holes[0] if holes else str(params[declared["required"][0]])
        entries = [
            {"object": place.object, **entry} for entry in account.entries(place.owner, owner, place.field)
        ]
        return _nested_list(entries, {k: v for k, v in params.items() if k not in declared["required"]}, path)
    if template.startswith("customers/"):
        account.find("customer", holes[0])
    given = {name: value for name, value in params.items() if name not in _PAGING}
    wanted = {**given, **_parents(template, holes)}
    names = declared["objects"]
    expand = _expanded(params, "data.")

    def keep(row: Row) -> bool:
        return account.visible(row) and _is_listed(account, template, row, wanted)

    rows = account.listed(names[0]) if len(names) == 1 else account.merged(names)
    return page(
        rows,
        params,
        lambda id, param: account.cursor(names, id, wanted, param),
        f"/v1/{path}",
        lambda row: account.rendered(row, expand),
        keep,
    )


_PAGING: Final = ("limit", "starting_after", "ending_before", "expand", "created")


def _is_listed(account: Account, template: str, row: Row, wanted: Row) -> bool:
    """Return whether a row is on a list, given its filters: some lists leave rows out unless they are asked for."""
    name = row["object"]
    if name in facts.ON_CLOCKS and row.get("test_clock") and "test_clock" not in wanted:
        return False  # reference, parameter test_clock
    if template == "prices":
        # Reference, "List all prices": the plain list has active prices only.
        return bool(row.get("active", True)) is (str(wanted.get("active", "true")) == "true")
    if template == "reviews":
        return bool(row.get("open", True))  # reference, "List all open reviews"
    if template == "subscriptions" and (status := wanted.get("status")) in (None, "all"):
        # Reference, "List subscriptions": cancelled ones are listed only with status=canceled or status=all.
        return status == "all" or row.get("status") != "canceled"
    if template == "tax/registrations" and wanted.get("status", "active") != "all":
        return bool(row.get("status", "active") == wanted.get("status", "active"))
    if template == "tax_ids":
        return not row.get("customer")  # reference, "List all tax IDs": those of the account
    if template == "payment_methods" and "customer" not in wanted:
        if wanted.get("type") is None and row.get("type") == "custom":
            return False  # reference, "List PaymentMethods", parameter type
        if not account.plain_payment_methods and row.get("customer"):
            return False
    skipped = ("status", "type") if wanted.get("status") == "all" else ()
    return all(
        str(row.get(name)).lower() == str(value).lower()
        for name, value in wanted.items()
        if name not in skipped
    )


def answer_events(account: Account, params: Row) -> Row:
    """Answer ``GET /v1/events`` (reference, *List all events*): one type, possibly with a wildcard, or up to 20 types.

    Raises:
        StripeRefused: as Stripe would refuse the request.
    """
    types, one = params.get("types"), params.get("type")
    if types and one:
        raise StripeRefused(400, "You may only specify one of these parameters: type, types.")
    wanted: list[str] | None = None
    if types:
        wanted = list(types.values()) if isinstance(types, Mapping) else list(types)
        if len(wanted) > _MOST_TYPES:
            text = f"Array types[] exceeded maximum {_MOST_TYPES} allowed elements."
            raise StripeRefused(400, text, None, "types")

    def keep(event: Row) -> bool:
        if one and not _matches(event["type"], one):
            return False
        # Reference: "*" is declared for type, and not for types[].
        return (wanted is None or event["type"] in wanted) and account.visible(event)

    # The walk ends at the events that Stripe no longer keeps, so that an empty answer is cheap, too.
    oldest = int(account.now()) - RETENTION + 1
    return page(account.all_events(), params, account.event, "/v1/events", keep=keep, least=oldest)


def _matches(kind: str, wanted: str) -> bool:
    return kind.startswith(wanted[:-1]) if wanted.endswith("*") else kind == wanted


def nested(pairs: list[tuple[str, str]]) -> Row:
    """Return form fields such as ``metadata[a]`` and ``types[]`` as nested objects and lists."""
    found: Row = {}
    for name, value in pairs:
        first, *rest = re.findall(r"[^\[\]]+|\[\]", name) or [name]
        target: Any = found
        keys = [first, *rest]
        for key, following in zip(keys, [*keys[1:], None], strict=True):
            if following is None:
                if key == "[]":
                    target.append(value)
                else:
                    target[key] = value
            elif following == "[]":
                target = target.setdefault(key, [])
            else:
                target = target.setdefault(key, {})
    return found
