"""The HTTP client of change sources (needs httpx).

It waits for the account's budget, retries with backoff, and treats every answer as hostile: one time limit covers an attempt from
connecting to the last byte, a body is inflated within a limit, redirects are not followed, and requests go to the configured
origin only (:mod:`dimesh.sourcekit.addresses`). A source adds a judge, which classifies the answers of its system.
"""

from __future__ import annotations

import functools
import json
import random
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final

import msgspec

from dimesh import contact
from dimesh.clock import Clock, time_limit
from dimesh.errors import ConfigurationError, PluginError, SourceUnavailableError, describe
from dimesh.sourcekit.addresses import Origin
from dimesh.sourcekit.bodies import ACCEPTED, BodyDecodingError, BodyTooLargeError, read_body
from dimesh.sourcekit.budget import Priority, RateLimiter
from dimesh.sourcekit.options import SourceOptions

# Where click, rich and pygments are installed, httpx imports a command line of its own, which takes longer than all the rest of
# it. It does without where that module cannot be imported.
_COMMAND_LINE: Final = "httpx._main"
_left_out = sys.modules.keys().isdisjoint(("httpx", _COMMAND_LINE))
try:
    if _left_out:
        sys.modules[_COMMAND_LINE] = None  # type: ignore[assignment]
    import httpx as httpx  # plugins import it from here, so that they leave out its command line, too
except ImportError as error:
    raise PluginError(
        "dimesh.sourcekit.http needs httpx: name it among the dependencies of the plugin"
    ) from error
finally:
    if _left_out:
        del sys.modules[_COMMAND_LINE]

FIRST_DELAY: Final = 0.25
MAX_DELAY: Final = 10.0
CHECK_FOR: Final = 2.0
"""The seconds for which a check is repeated at most: somebody waits for its answer."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The verdict on an answer that another attempt may improve."""

    reason: str
    """What was wrong, for the error if all attempts fail."""
    after: float = 0.0
    """The number of seconds to wait at least."""


class Answer:
    """One complete answer."""

    __slots__ = ("_json", "content", "headers", "reason", "status")

    def __init__(self, status: int, reason: str, headers: Mapping[str, str], content: bytes) -> None:
        self.status = status
        self.reason = reason
        """The reason phrase of the status line."""
        self.headers = headers
        """The headers; names are looked up without regard to case."""
        self.content = content
        """The inflated body."""
        self._json: Any = _UNREAD

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            ValueError: the body is not JSON.
        """
        if self._json is _UNREAD:
            try:
                self._json = _decode(self.content)
            except (msgspec.MsgspecError, RecursionError):
                # The standard library accepts more, such as half of a surrogate pair, and its errors say more.
                self._json = self._read_slowly()
        return self._json

    def _read_slowly(self) -> Any:
        try:
            return json.loads(self.content, parse_constant=_refuse_constant)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error

    @property
    def foreign(self) -> bool:
        """Whether something between here and the system has answered, most likely: a proxy, or a page during an incident. It says
        nothing about what was asked for.
        """
        if self.status in _BETWEEN or 300 <= self.status < 400:
            return True
        page = "text/html" in self.headers.get("content-type", "").lower()
        return page and self.status < 500 and self.status not in (401, 429)


_BETWEEN: Final = frozenset({407, 408, 421, 425, 451, 511})
"""Statuses that APIs do not give: proxy authentication, time-outs of connections, and the like."""
Judge = Callable[[Answer, str], Retry | None]
"""Classifies an answer to a request about an object: returns None for a good answer, a :class:`Retry` for one that
another attempt may improve, and raises the error of one that is final. A ValueError means that the body is not JSON,
and is retried. Answers that are not the system's own (:attr:`Answer.foreign`) do not come here: they are retried."""


class SourceClient:
    """Sends the requests of one source.

    Args:
        system: the name of the system, for errors.
        options: of the source: ``timeout``, ``retry_for`` and ``ca_file`` are used here.
        clock: time.
        budget: the budget that all readers of the account share.
        max_bytes: the largest body, inflated.
        judge_redirects: whether the judge classifies redirects, too. By default they count as answers of something in between.
            They are never followed here: a judge that accepts one raises an error of its own, and its source asks again.
    """

    def __init__(
        self,
        system: str,
        options: SourceOptions,
        clock: Clock,
        budget: RateLimiter,
        max_bytes: int = 64 * 1024 * 1024,
        *,
        judge_redirects: bool = False,
    ) -> None:
        self.budget = budget
        self._judge_redirects = judge_redirects
        self._system = system
        self._options = options
        self._clock = clock
        self._max_bytes = max_bytes
        self._http: httpx.AsyncClient | None = None
        self._ahead = 0.0

    async def open(self) -> None:
        """Make the connection pool.

        Raises:
            ConfigurationError: ``ca_file`` cannot be read.
        """
        if self._http is None:
            self._http = connection_pool(trust(self._options.ca_file))

    async def close(self) -> None:
        """Close the connection pool; may be called twice."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()
        self.budget.close()

    def system_time(self) -> float:
        """Return the time by the clock of the system, in seconds since the epoch: the date of its last answer, and the time
        that has passed since. Before the first answer it is ours. No position is made of our clock, which may be hours ahead.

        The header ``Date`` has whole seconds (RFC 9110, 6.6.1), so this is up to a second late, and never early.
        """
        return self._clock.time() + self._ahead

    def _note_time(self, answer: Answer) -> None:
        try:
            dated = parsedate_to_datetime(answer.headers["date"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError):
            return  # no header, or no time in it
        self._ahead = dated - self._clock.time()

    async def request(
        self,
        method: str,
        origin: Origin,
        address: str,
        priority: Priority,
        about: str,
        judge: Judge,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        retry_for: float | None = None,
        sign: Callable[[], Mapping[str, str]] | None = None,
        judge_empty: bool = False,
    ) -> Answer:
        """Return a good answer.

        Args:
            method: GET, or POST where repeating it does no harm.
            origin: where the request goes.
            address: the path, or an address that an answer of this origin named.
            priority: which request goes first when the budget is short. A check is repeated for two seconds at most: it is
                waited for.
            about: the object that is read, for errors.
            judge: classifies answers.
            params: the query; None: the one in ``address``.
            headers: more headers, such as the credentials.
            json: the body, as JSON.
            form: the body, as a form.
            retry_for: seconds; None: the option. No attempt begins later than that, so the whole request ends within
                ``retry_for`` and the ``timeout`` of the last attempt, beside its wait for the budget.
            sign: returns headers for one attempt, and is called for each: a signature with a nonce is good for one only.
            judge_empty: whether an answer without a body goes to the judge also if it claims to be a page: some systems refuse an
                object so.

        Raises:
            SourceUnavailableError: no attempt had a good answer in that time, or an answer was too large. The judge may raise
                others.
            ForeignAddressError: ``address`` is outside ``origin``.
        """
        assert self._http is not None, "not open"
        request = self._http.build_request(
            method,
            f"{origin}{origin.path(address)}",
            params=params or None,
            headers=headers,
            json=json,
            data=form,
        )
        end = self._clock.monotonic() + (self._options.retry_for if retry_for is None else retry_for)
        if priority is Priority.CHECK:
            end = min(end, self._clock.monotonic() + CHECK_FOR)
        delay = FIRST_DELAY
        failed = False
        while True:
            verdict, answer = await self._attempt(request, priority, about, judge, sign, judge_empty)
            if verdict is None:
                assert answer is not None
                self.budget.succeeded()
                contact.report_reached()
                return answer
            if failed:
                contact.report_missed(f"{self._system} cannot be read: {verdict.reason}")
            failed = True
            pause = max(delay * random.uniform(0.5, 1.5), verdict.after)  # noqa: S311 - spreads retries
            if self._clock.monotonic() + pause > end:
                raise SourceUnavailableError(
                    f"{self._system} could not be read for {about}: {verdict.reason}"
                )
            await self._clock.sleep(pause)
            delay = min(delay * 2, MAX_DELAY)

    async def _attempt(
        self,
        request: httpx.Request,
        priority: Priority,
        about: str,
        judge: Judge,
        sign: Callable[[], Mapping[str, str]] | None,
        judge_empty: bool,
    ) -> tuple[Retry | None, Answer | None]:
        try:
            async with self.budget.request(priority), time_limit(self._clock, self._options.timeout):
                contact.report_request()
                if sign is not None:
                    request.headers.update(sign())
                answer = await self._send(request)
            redirected = self._judge_redirects and 300 <= answer.status < 400
            if answer.foreign and not redirected and (answer.content or not judge_empty):
                return Retry(f"HTTP {answer.status} {answer.reason}, not an answer of {self._system}"), None
            self._note_time(answer)
            return judge(answer, about), answer
        except BodyTooLargeError:
            raise SourceUnavailableError(
                f"{self._system} answered {about} with more than {self._max_bytes:,} bytes: the rest was not read"
            ) from None
        except TimeoutError:
            return Retry(f"no complete answer within {self._options.timeout:g} s"), None
        except BodyDecodingError as error:
            return Retry(str(error)), None
        except httpx.TransportError as error:
            return Retry(describe(error)), None
        except ValueError as error:
            return Retry(f"an answer that is not JSON: {error}"[:200]), None

    async def _send(self, request: httpx.Request) -> Answer:
        assert self._http is not None, "closed"
        response = await self._http.send(request, stream=True)
        try:
            encoding = response.headers.get("content-encoding", "")
            body = await read_body(response.aiter_raw(), encoding, self._max_bytes)
        finally:
            await response.aclose()
        return Answer(response.status_code, response.reason_phrase, response.headers, body)


def seconds(text: str | None) -> float:
    """Return the seconds that a header such as ``Retry-After`` names; 0 if it names none."""
    try:
        value = float(text or 0.0)
    except ValueError:
        return 0.0
    return max(0.0, value)  # 0 for NaN, too


def root_certificates(ca_file: str | None) -> bytes | None:
    """Return the content of the option ``ca_file``, for a client other than this one; None without a file.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    try:
        return Path(ca_file).read_bytes() if ca_file is not None else None
    except OSError as error:
        raise ConfigurationError(f"ca_file cannot be read: {error}") from error


@functools.cache
def _default_trust() -> ssl.SSLContext:
    """Load the usual certificates, once for all clients: it takes 20 to 50 ms, and httpx would do it twice for each."""
    return httpx.create_ssl_context()


def trust(
    ca_file: str | None, certificate_file: str | None = None, certificate_key_file: str | None = None
) -> ssl.SSLContext:
    """Return the certificates that are trusted, and those that this client shows.

    Args:
        ca_file: a PEM file with the authorities to trust; None: the usual ones.
        certificate_file: a PEM file with the certificate of this client, for mutual TLS.
        certificate_key_file: a PEM file with its private key; None: that is in the file of the certificate.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    try:
        if root_certificates(ca_file) is not None:
            context = ssl.create_default_context(cafile=ca_file)
        elif certificate_file is None:
            return _default_trust()
        else:
            context = httpx.create_ssl_context()  # not the shared one, which shows no certificate
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"ca_file {ca_file!r:.200} has no certificates in PEM form: {error}"
        ) from error
    if certificate_file is not None:
        try:
            context.load_cert_chain(certificate_file, certificate_key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"certificate_file {certificate_file!r:.200} cannot be used: {describe(error)}"
            ) from error
    return context


def connection_pool(context: ssl.SSLContext) -> httpx.AsyncClient:
    """Return a client that follows no redirect, keeps no cookie, and asks for bodies that :func:`read_body` can limit."""
    return httpx.AsyncClient(
        verify=context,
        timeout=None,  # noqa: S113 - the time limit of an attempt is on our clock
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        headers={"accept-encoding": ACCEPTED, "user-agent": "dimesh"},
    )


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_UNREAD: Final = object()
_decode: Final = msgspec.json.Decoder().decode
