"""Errors of the client as errors of the mesh, with what to do about them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiokafka import errors as kafka

from dimesh.errors import BusError, ConfigurationError, PublishError, RefusedError

_NEVER_TAKEN: Final = (
    kafka.InvalidTopicError,
    kafka.RecordListTooLargeError,
    kafka.InvalidTimestampError,
    kafka.UnsupportedForMessageFormatError,
)
"""Answers of the broker that do not change (those whose ``retriable`` is false in Kafka's list of error codes, and that concern
the records: https://kafka.apache.org/protocol.html#protocol_error_codes)."""


@contextmanager
def translated(doing: str, publishing: bool = False) -> Iterator[None]:
    """Raise the client's errors in the block as errors of the mesh.

    Args:
        doing: what the block does, for the message: ``list the topics``.
        publishing: whether the block publishes, so that an error other than a refusal leaves the outcome unknown.
    """
    try:
        yield
    except kafka.KafkaError as error:
        raise explained(error, doing, publishing) from error
    except (OSError, ssl.SSLError) as error:
        raise BusError(f"cannot {doing}: {error}") from error


def explained(error: BaseException, doing: str, publishing: bool = False) -> BusError:
    """Return the error of the mesh for an error of the client."""
    kind: type[BusError] = PublishError if publishing else BusError
    name = type(error).__name__
    if isinstance(error, kafka.MessageSizeTooLargeError):
        return (RefusedError if publishing else kind)(
            f"cannot {doing}: a batch is larger than the topic accepts, and was not published. Raise max.message.bytes of "
            "the topic and the option max_request_size, lower batch_size, or publish a reference"
        )
    if publishing and isinstance(error, _NEVER_TAKEN):
        return RefusedError(f"cannot {doing}: the broker refuses the records for good: {name}: {error}")
    if isinstance(error, kafka.TopicAuthorizationFailedError):
        return kind(
            f"cannot {doing}: the broker denies access to the topic; an ACL is missing ({error.args})"
        )
    if isinstance(error, kafka.GroupAuthorizationFailedError):
        return kind(
            f"cannot {doing}: the broker denies access to the group; an ACL is missing ({error.args})"
        )
    if isinstance(error, kafka.ClusterAuthorizationFailedError):
        return kind(
            f"cannot {doing}: the broker does not permit it; an ACL is missing (to publish: WRITE on a topic, or "
            "IDEMPOTENT_WRITE on the cluster)"
        )
    if isinstance(error, kafka.TransactionalIdAuthorizationFailed):
        return kind(f"cannot {doing}: an ACL for transactional ids is missing")
    if isinstance(error, kafka.UnsupportedVersionError):
        return kind(f"cannot {doing}: the broker is too old for it")
    if isinstance(error, kafka.NotEnoughReplicasError | kafka.NotEnoughReplicasAfterAppendError):
        return kind(f"cannot {doing}: fewer replicas are in sync than min.insync.replicas requires")
    if isinstance(error, kafka.KafkaTimeoutError | kafka.RequestTimedOutError):
        return kind(
            f"cannot {doing}: no answer in time{'; the outcome is unknown' if publishing else ''} ({name})"
        )
    return kind(f"cannot {doing}: {name}: {error}")


def connection_error(error: BaseException, servers: str) -> BusError:
    """Return the error that explains why the broker could not be reached."""
    found: BaseException | None = error
    while found is not None:
        text = str(found)
        if isinstance(found, ssl.SSLCertVerificationError):
            return CannotConnectError(
                f"the certificate of {servers} is not accepted: {found.verify_message}. Trust its authority with "
                "tls_ca, or connect by the name in the certificate"
            )
        if isinstance(found, kafka.SaslAuthenticationFailed | kafka.AuthenticationFailedError):
            return CannotConnectError(
                f"{servers} refuses the credentials: {text or 'wrong user name or password'}"
            )
        if isinstance(found, kafka.UnsupportedSaslMechanismError):
            return CannotConnectError(f"{servers} does not offer this sasl_mechanism: {text}")
        if isinstance(found, ssl.SSLError):
            return CannotConnectError(
                f"{servers} does not speak TLS there ({found.reason}): is it the right port?"
            )
        found = found.__cause__ or found.__context__
    return CannotConnectError(
        f"cannot connect to {servers}: {error}. Check the address, and that tls and sasl_mechanism are those of the "
        "broker's listener"
    )


class CannotConnectError(BusError, ConfigurationError):
    """The broker cannot be reached as configured."""

    permanent = False  # brokers, certificates and credentials change without us
