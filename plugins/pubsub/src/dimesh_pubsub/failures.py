"""What gRPC and google-auth say, as errors of dimesh that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc
from google.auth.exceptions import GoogleAuthError
from google.rpc import error_details_pb2, status_pb2

from dimesh.errors import BusError, DimeshError, PublishError

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
"""What is worth another try: the list of Google's own clients."""
_MOST: Final = 500
_CONNECTING: Final = (
    ("certificate has expired", "the certificate of the service has expired"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the certificate of the service is not of an authority that is trusted here; set tls_ca if it is one of your own",
    ),
    ("Hostname Verification", "the certificate of the service is for another name than the endpoint's"),
    ("WRONG_VERSION_NUMBER", "the endpoint does not speak TLS; an emulator is given as emulator_host"),
    ("Getting metadata from plugin failed", "the credentials gave no token"),
)
"""What gRPC says of a connection that cannot be made, and what it means. First match wins."""


class NotPermittedError(BusError):
    """The service does not let these credentials do it."""


class CannotConnectError(BusError):
    """No answer from the service."""


class QuotaError(BusError):
    """The project's quota is used up."""


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """Its status."""
    found = error.code() if isinstance(error, grpc.aio.AioRpcError) else Code.UNKNOWN
    return found if isinstance(found, grpc.StatusCode) else Code.UNKNOWN


def explained(error: Exception, doing: str, *, publishing: bool = False) -> DimeshError:
    """The error to raise.

    Args:
        error: what was raised.
        doing: what was tried, for the message.
        publishing: it is to be a PublishError.
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
    """Of an acknowledgement with exactly-once delivery: what the service says of ack ids, and whether it said that.

    https://cloud.google.com/pubsub/docs/exactly-once-delivery: the error's details hold an ErrorInfo whose metadata maps
    ack ids to ``PERMANENT_FAILURE_…`` or ``TRANSIENT_FAILURE_…``; ids that are not there were taken.
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
