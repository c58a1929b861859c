"""Requests to a registry: addresses with failover, retries within one deadline, and limits on what is read."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from dimesh.clock import Clock, time_limit
from dimesh.errors import RegistryUnavailableError, describe
from dimesh.sourcekit.bodies import BodyDecodingError, BodyTooLargeError, read_body
from dimesh.sourcekit.http import connection_pool, httpx, seconds, trust
from dimesh_confluent.access import Access
from dimesh_confluent.addresses import Address
from dimesh_confluent.failures import TRANSIENT, RefusalError
from dimesh_confluent.options import ConfluentOptions

log = logging.getLogger("dimesh.registry")

MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
MAX_ANSWER: Final = 64 * 1024 * 1024
"""The greatest number of bytes of an answer, inflated."""
FIRST_DELAY: Final = 0.1
MAX_DELAY: Final = 5.0
_NOT_DONE: Final = frozenset({429, 503})
"""The statuses that say that the request was not carried out."""
_LONGEST_MESSAGE: Final = 2_000


class _FailedError(Exception):
    """An attempt failed, and another one may succeed.

    Args:
        reason: what was wrong.
        not_done: whether the request was certainly not carried out.
        after: the seconds to wait at least.
    """

    def __init__(self, reason: str, *, not_done: bool = False, after: float = 0.0) -> None:
        super().__init__(reason)
        self.not_done = not_done
        self.after = after


class Transport:
    """Sends requests.

    Args:
        options: of the registry.
        clock: time.
    """

    def __init__(self, options: ConfluentOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._addresses = options.addresses()
        self._current = 0
        """The address that answered last."""
        self._http: httpx.AsyncClient | None = None
        self._access = Access(options, clock, self._post)

    async def open(self) -> None:
        """Make the connection pool; nothing is connected to yet.

        Raises:
            ConfigurationError: a file of certificates cannot be used.
        """
        if self._http is None:
            options = self._options
            self._http = connection_pool(
                trust(options.ca_file, options.certificate_file, options.certificate_key_file)
            )

    async def close(self) -> None:
        """Close the connection pool; may be called twice."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def request(
        self,
        method: str,
        *parts: str | int,
        query: Mapping[str, str | int | bool] | None = None,
        body: Mapping[str, Any] | None = None,
        repeat: bool = True,
    ) -> Any:
        """Return the JSON of a good answer.

        Args:
            method: the HTTP method.
            parts: the parts of the path, not encoded.
            query: the parameters.
            body: the JSON object to send.
            repeat: whether the request does no harm if it is carried out twice. One that does is repeated only if it was
                certainly not carried out.

        Raises:
            RefusalError: the registry answers with an error that another attempt would not change.
            RegistryUnavailableError: no attempt had an answer in time.
            RegistryAccessError: the OAuth server rejected the client.
        """
        path = "".join(f"/{quote(str(part), safe='')}" for part in parts)
        if query:
            path += "?" + urlencode({name: _parameter(value) for name, value in query.items()})
        content = (
            None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        )
        end = self._clock.monotonic() + self._options.retry_for
        delay = FIRST_DELAY
        failed: list[str] = []
        renewed = False
        while True:
            address = self._addresses[self._current % len(self._addresses)]
            try:
                return await self._attempt(method, address, path, content)
            except _FailedError as error:
                reason, failure = str(error), error
            except RefusalError as refusal:
                if refusal.status != 401 or renewed or not self._access.renewable:
                    raise
                renewed = True  # the token was revoked, perhaps: once with another one
                continue
            failed.append(reason)
            final = not (repeat or failure.not_done)
            pause = failure.after
            others = len(self._addresses)  # each of them is tried, whatever the deadline
            if others > 1:
                log.warning(
                    "the registry at %s cannot be used, the next address is tried: %s", address, reason
                )
            self._current = (self._current + 1) % others
            if len(failed) % others == 0:  # all addresses failed
                pause = max(pause, random.uniform(0.0, delay))  # noqa: S311 - spreads retries
                delay = min(delay * 2, MAX_DELAY)
            else:
                pause = 0.0
            if final or (len(failed) >= others and self._clock.monotonic() + pause > end):
                tail = "" if repeat else "; whether it was carried out is unknown" * (not failure.not_done)
                raise RegistryUnavailableError(
                    f"the schema registry could not be reached at {', '.join(map(str, self._addresses))}: {reason}{tail}"
                )
            if pause > 0:
                await self._clock.sleep(pause)

    async def _attempt(self, method: str, address: Address, path: str, content: bytes | None) -> Any:
        try:
            async with time_limit(self._clock, self._options.timeout):
                access = await self._access.headers()
                headers = {"accept": f"{MEDIA_TYPE}, application/json; q=0.9, */*; q=0.1", **access}
                if content is not None:
                    headers["content-type"] = MEDIA_TYPE
                status, head, body = await self._send(method, f"{address}{path}", headers, content=content)
        except TimeoutError:
            raise _FailedError(f"no complete answer within {self._options.timeout:g} s") from None
        except BodyTooLargeError:
            raise RegistryUnavailableError(
                f"the registry at {address} answers with more than {MAX_ANSWER:,} bytes: the rest was not read"
            ) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _FailedError(describe(error), not_done=True) from None
        except BodyDecodingError as error:
            raise _FailedError(str(error)) from None
        except httpx.TransportError as error:
            raise _FailedError(describe(error)) from None
        if 200 <= status < 300:
            return _json(body) if body else None
        if 300 <= status < 400:
            raise _FailedError(
                f"HTTP {status}: it redirects, which is not followed: set url to the registry itself"
            )
        refusal = _refusal(status, body)
        if status in TRANSIENT:
            after = min(seconds(head.get("retry-after")), self._options.retry_for + 1)
            raise _FailedError(f"HTTP {status}: {refusal.message}", not_done=status in _NOT_DONE, after=after)
        if status == 401:
            self._access.forget(access)
        raise refusal

    async def _post(self, address: str, headers: dict[str, str], form: dict[str, str]) -> tuple[int, bytes]:
        """Send a form to the OAuth server."""
        headers = {
            **headers,
            "accept": "application/json",
            "content-type": "application/x-www-form-urlencoded",
        }
        status, _, body = await self._send("POST", address, headers, content=urlencode(form).encode())
        return status, body

    async def _send(
        self, method: str, address: str, headers: dict[str, str], content: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        assert self._http is not None, "not open"
        request = self._http.build_request(method, address, headers=headers, content=content)
        response = await self._http.send(request, stream=True)
        try:
            encoding = response.headers.get("content-encoding", "")
            body = await read_body(response.aiter_raw(), encoding, MAX_ANSWER)
        finally:
            await response.aclose()
        return response.status_code, response.headers, body


def _parameter(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _FailedError("an answer that is not JSON: is url the address of a schema registry?") from None


def _refusal(status: int, body: bytes) -> RefusalError:
    """Return the error of an answer; what is not in the form of the API counts by its status alone."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    code = found.get("error_code") if isinstance(found, dict) else None
    message = found.get("message") if isinstance(found, dict) else None
    if not isinstance(message, str):
        message = "no reason is given"
    if not isinstance(code, int) or isinstance(code, bool):
        code = status
    return RefusalError(status, code, " ".join(message.split())[:_LONGEST_MESSAGE])
