"""Counts what is published and handled, in integers that the SDK reads when it collects: its own counters cost a hundred times as
much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from dimesh.spi.interceptor import Handling, Publishing
from dimesh_otel import conventions
from dimesh_otel.durations import Buckets

MOST: Final = 1_000
"""The largest number of sets of labels that are counted apart; the SDK itself keeps 2,000."""
OTHER: Final = "_other"
"""What stands for the names of everything past this limit."""

Key = tuple[str, str, str | None]
"""A topic, an operation or a group, and the class of an error."""
Labelled = Callable[[str, str, str | None], conventions.Labels]


class Recorder(Protocol):
    """A histogram that the SDK keeps."""

    def record(self, amount: float, attributes: conventions.Labels) -> None:
        """Record a duration in seconds."""
        ...


class Series:
    """The calls of one kind, with the number of their events and their durations, by labels.

    Args:
        labelled: makes the labels of a key.
    """

    def __init__(self, labelled: Labelled) -> None:
        self._labelled = labelled
        self._events: dict[Key, int] = {}
        self._buckets: dict[Key, Buckets] = {}
        self.recorder: Recorder | None = None
        """Where durations go; None: into buckets of our own."""

    def add(self, key: Key, events: int, seconds: float) -> None:
        """Count a call."""
        try:
            self._events[key] += events
        except KeyError:
            if len(self._events) >= MOST:
                key = OTHER, OTHER, None
            self._events[key] = self._events.get(key, 0) + events
        if self.recorder is not None:
            self.recorder.record(seconds, self._labelled(*key))
            return
        buckets = self._buckets.get(key)
        if buckets is None:
            buckets = self._buckets[key] = Buckets()
        buckets.add(seconds)

    def events(self, options: CallbackOptions) -> Iterable[Observation]:
        """Return the number of events by labels, as an observable counter wants it. Called in another thread."""
        return [Observation(count, self._labelled(*key)) for key, count in list(self._events.items())]

    def durations(self) -> list[tuple[conventions.Labels, Buckets]]:
        """Return the durations by labels. Called in another thread."""
        return [(self._labelled(*key), buckets) for key, buckets in list(self._buckets.items())]


_COUNTERS: Final = {
    conventions.DEAD_LETTERS: (conventions.MESSAGES, "Events that were dead-lettered."),
    conventions.GIVEN_UP: (
        conventions.MESSAGES,
        "Events that could neither be handled nor be dead-lettered.",
    ),
    conventions.CHANGES: ("{change}", "Changes that were captured."),
    conventions.GAPS: ("{gap}", "Times that a source may have missed changes."),
}


class Metrics:
    """Counts publishing and handling, dead letters, and what sources capture."""

    def __init__(self) -> None:
        self.sending = Series(conventions.sending_labels)
        self.processing = Series(conventions.processing_labels)
        self._counts: dict[str, dict[str, int]] = {name: {} for name in _COUNTERS}

    def published(
        self, publishing: Publishing, events: int, seconds: float, error: BaseException | None
    ) -> None:
        """Count a publish."""
        kind = None if error is None else conventions.error_type(error)
        self.sending.add((publishing.topic, publishing.operation, kind), events, seconds)

    def handled(self, handling: Handling, events: int, seconds: float, error: BaseException | None) -> None:
        """Count a call of a handler."""
        kind = None if error is None else conventions.error_type(error)
        self.processing.add((handling.topic, handling.group or "", kind), events, seconds)

    def count(self, name: str, of: str) -> None:
        """Count something rare of a topic or a source."""
        counts = self._counts[name]
        if of not in counts and len(counts) >= MOST:
            of = OTHER
        counts[of] = counts.get(of, 0) + 1

    def attach(self, provider: MeterProvider, scope: str, *, own_buckets: bool) -> None:
        """Let a provider collect all that is counted.

        Args:
            provider: the provider.
            scope: the name of the instrumentation scope.
            own_buckets: whether its exporter is a :class:`~dimesh_otel.durations.WithDurations`; otherwise each duration is given
                to a histogram of the provider, which costs more than all the rest.
        """
        meter = provider.get_meter(scope)
        for series, name, text in (
            (self.sending, conventions.SENT, "Events that were published."),
            (self.processing, conventions.CONSUMED, "Events that handlers were called with."),
        ):
            meter.create_observable_counter(name, [series.events], conventions.MESSAGES, text)
        for name, (unit, text) in _COUNTERS.items():
            meter.create_observable_counter(name, [self._reading(name)], unit, text)
        if own_buckets:
            return
        for name, text, series in self._histograms():
            options: dict[str, Any] = {"explicit_bucket_boundaries_advisory": conventions.BOUNDARIES}
            series.recorder = meter.create_histogram(name, conventions.SECONDS, text, **options)

    def _histograms(self) -> list[tuple[str, str, Series]]:
        return [
            (conventions.CLIENT_DURATION, "The duration of publishing.", self.sending),
            (conventions.PROCESS_DURATION, "The duration of calls of handlers.", self.processing),
        ]

    def durations(self) -> list[tuple[str, str, list[tuple[conventions.Labels, Buckets]]]]:
        """Return the histograms of our own buckets: name, description, and durations by labels."""
        return [(name, text, series.durations()) for name, text, series in self._histograms()]

    def _reading(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        label = (
            conventions.SOURCE if name in (conventions.CHANGES, conventions.GAPS) else conventions.DESTINATION
        )

        def read(options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(n, {label: of}) for of, n in list(self._counts[name].items())]

        return read
