"""Errors of gRPC and google-auth as errors of the mesh, with what to do about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc
from google.auth.exceptions import GoogleAuthError
from google.rpc import error_details_pb2, status_pb2

from dimesh.errors import BusError, DimeshError, PublishError, RefusedError

Code = grpc.StatusCode
TRANSIENT: Final = frozenset(
    {
        Code.ABORTED,
        Code.CANCELLED,
        Code.DEADLINE_EXCEEDED,
        Code.INTERNAL,
        Code.RESOURCE_EXHAUSTED,
        Code.UNAVAILABLE,
        Code.UNKNOWN,
    }
)
"""The codes after which a call is repeated, as Google's own clients do."""
_MOST: Final = 500
_CONNECTING: Final = (
    ("certificate has expired", "the certificate of the service has expired"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the certificate of the service is not from a trusted authority; set tls_ca if the authority is your own",
    ),
    ("Hostname Verification", "the certificate of the service is for another name than the endpoint"),
    ("WRONG_VERSION_NUMBER", "the endpoint does not use TLS; set emulator_host for an emulator"),
    ("Getting metadata from plugin failed", "no token could be obtained with the credentials"),
)
"""What gRPC reports about a connection that fails, and what it means. The first match counts."""


class NotPermittedError(BusError):
    """The account lacks a permission."""


class CannotConnectError(BusError):
    """The service does not answer."""


class QuotaError(BusError):
    """A quota of the project is used up."""


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """Return the status code of an error."""
    found = error.code() if isinstance(error, grpc.aio.AioRpcError) else Code.UNKNOWN
    return found if isinstance(found, grpc.StatusCode) else Code.UNKNOWN


def explained(error: Exception, doing: str, *, publishing: bool = False) -> DimeshError:
    """Return the error of the mesh for an error of the libraries.

    Args:
        error: the error that was raised.
        doing: what was tried, for the message.
        publishing: whether to return a PublishError.
    """
    if isinstance(error, DimeshError):
        return error
    kind: type[BusError] = PublishError if publishing else BusError
    if isinstance(error, GoogleAuthError):
        return kind(f"cannot {doing}: the credentials cannot be used: {_short(str(error))}")
    assert isinstance(error, grpc.RpcError)
    code = code_of(error)
    said = _short((error.details() if isinstance(error, grpc.aio.AioRpcError) else None) or "")
    if code is Code.UNAUTHENTICATED:
        text = f"the credentials were refused: {said}"
        return kind(f"cannot {doing}: {text}")
    if code is Code.PERMISSION_DENIED:
        if not publishing:
            kind = NotPermittedError
        return kind(
            f"cannot {doing}: not permitted: {said}. Give the account the role that has this permission"
        )
    if code is Code.RESOURCE_EXHAUSTED:
        if not publishing:
            kind = QuotaError
        return kind(f"cannot {doing}: a quota of the project is used up: {said}")
    if code is Code.INVALID_ARGUMENT and publishing:
        # https://cloud.google.com/pubsub/docs/reference/error-codes: the request is wrong whatever the state of the service is.
        kind = RefusedError
    for sign, meaning in _CONNECTING:
        if sign in said:
            return (PublishError if publishing else CannotConnectError)(f"cannot {doing}: {meaning} ({said})")
    if code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
        if publishing:
            return PublishError(
                f"cannot {doing}: no acknowledgement in time ({said}); the outcome is unknown. "
                "Publishing the same events again is safe"
            )
        return CannotConnectError(
            f"cannot {doing}: no answer ({said}). Check the endpoint or PUBSUB_EMULATOR_HOST, and the network"
        )
    return kind(f"cannot {doing}: {code.name}: {said}")


def refused_acks(error: grpc.RpcError) -> tuple[Mapping[str, str], bool]:
    """Return the failures by ack id of an acknowledgement with exactly-once delivery, and whether the error has any.

    https://cloud.google.com/pubsub/docs/exactly-once-delivery: the error's details hold an ErrorInfo whose metadata maps
    ack ids to ``PERMANENT_FAILURE_…`` or ``TRANSIENT_FAILURE_…``; the other ids were acknowledged.
    """
    if not isinstance(error, grpc.aio.AioRpcError):
        return {}, False
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    found = {k: v for k, v in info.metadata.items() if "_FAILURE_" in v}
                    if found:
                        return found, True
    return {}, False


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST else text[:_MOST] + "…"
