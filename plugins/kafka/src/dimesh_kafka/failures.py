"""What the client raises, as the errors of the mesh."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import errors as kafka

from dimesh.errors import BusError, ConfigurationError, PublishError


@contextmanager
def translated(doing: str, unknown: bool = False) -> Iterator[None]:
    """Raise what the client raises in the block as an error of the mesh.

    Args:
        doing: for the message, such as ``list the topics``.
        unknown: the block publishes: an error that is not a refusal leaves its outcome unknown.
    """
    try:
        yield
    except kafka.KafkaError as error:
        raise explained(error, doing, unknown) from error
    except (OSError, ssl.SSLError) as error:
        raise BusError(f"cannot {doing}: {error}") from error


def explained(error: BaseException, doing: str, publishing: bool = False) -> BusError:
    """The error of the mesh for one of the client, with what to do about it."""
    kind: type[BusError] = PublishError if publishing else BusError
    name = type(error).__name__
    if isinstance(error, kafka.MessageSizeTooLargeError):
        return kind(
            f"cannot {doing}: a batch is larger than the topic takes, and was not published. Raise max.message.bytes of "
            "the topic and the option max_request_size, lower batch_size, or publish a reference"
        )
    if isinstance(error, kafka.TopicAuthorizationFailedError):
        return kind(
            f"cannot {doing}: the broker permits no access to the topic; an ACL is missing ({error.args})"
        )
    if isinstance(error, kafka.GroupAuthorizationFailedError):
        return kind(
            f"cannot {doing}: the broker permits no access to the group; an ACL is missing ({error.args})"
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
        return kind(f"cannot {doing}: fewer copies are in sync than min.insync.replicas asks for")
    if isinstance(error, kafka.KafkaTimeoutError | kafka.RequestTimedOutError):
        return kind(
            f"cannot {doing}: no answer in time{'; the outcome is unknown' if publishing else ''} ({name})"
        )
    return kind(f"cannot {doing}: {name}: {error}")


def connection_error(error: BaseException, servers: str) -> BusError:
    """Why the broker could not be reached at all."""
    found: BaseException | None = error
    while found is not None:
        text = str(found)
        if isinstance(found, ssl.SSLCertVerificationError):
            return CannotConnectError(
                f"the certificate of {servers} is not accepted: {found.verify_message}. Trust its authority with "
                "tls_ca, or connect by the name that it was made for"
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
