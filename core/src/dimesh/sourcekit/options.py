"""The options that sources over HTTP have in common."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dimesh.errors import ConfigurationError
from dimesh.options import Options
from dimesh.sourcekit.addresses import Origin


class SourceOptions(Options, frozen=True, kw_only=True):
    """Options of a source over HTTP. Times are seconds.

    A subclass adds its own fields, and redeclares a field here for another default or range. Declare ranges with
    ``msgspec.Meta``; check what a range cannot express in ``__post_init__``, and raise ``ConfigurationError`` with a
    message that begins with the name of the option: :func:`dimesh.options.parse_options` puts the name of the source in
    front of it.
    """

    rate: Annotated[float, Meta(ge=0.1, le=100_000)] = 20.0
    """The highest number of requests per second."""
    concurrency: Annotated[int, Meta(ge=1, le=100)] = 8
    """The highest number of requests in flight at the same time; snapshots leave one of them to streams."""
    ledger: str | None = None
    """The file through which the processes of this machine share ``rate`` and ``concurrency``; None: a file in the user's cache
    folder; empty: each process counts alone."""
    page: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """The number of rows per request."""
    timeout: Annotated[float, Meta(ge=0.1, le=600)] = 30.0
    """The time limit of one attempt at a request, from connecting to the last byte of the answer."""
    retry_for: Annotated[float, Meta(ge=0, le=3_600)] = 60.0
    """How long a request that fails for a temporary reason is retried."""
    ca_file: str | None = None
    """A PEM file with the certificate authorities to trust, in place of the usual ones; for a proxy with a certificate of its
    own."""


def check_origin(name: str, url: str) -> Origin:
    """Return the origin of an address among the options.

    Raises:
        ConfigurationError: credentials must not be sent to that address; the message begins with ``name``.
    """
    try:
        return Origin.parse(url)
    except ValueError as error:
        raise ConfigurationError(f"{name} {error}") from error
