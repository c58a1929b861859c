"""The metrics of a running mesh. They read counters that exist anyway when somebody asks, so that they cost events nothing; only
what is published is counted for them.
"""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from dimesh.bus.counts import OTHER
from dimesh.bus.options import SubscriptionState
from dimesh.bus.patterns import is_pattern
from dimesh.http.exposition import Family, Sample
from dimesh.ops.readiness import Watch
from dimesh.settings import MeshSettings

MOST_TOPICS: Final = 500
"""The largest number of topics with a label of their own: those of the settings first, then others as they are used."""
_STARTED: Final = time.time()
_EVENTS: Final = {
    "received": "Events that were received from the bus.",
    "handled": "Events whose handler succeeded.",
    "dead_lettered": "Events that were dead-lettered.",
    "duplicates": "Events that were delivered before and were not handled again.",
    "redelivered": "Events that were sent back to be delivered again later.",
    "given_up": "Events that could neither be handled nor be dead-lettered.",
    "skipped": "Events that were redriven for another group.",
}
_CALLS: Final = {
    "timeouts": ("dimesh_handler_timeouts_total", "Calls of handlers that took longer than their limit."),
    "opened": ("dimesh_breaker_opened_total", "Times that a circuit breaker opened."),
    "gaps": ("dimesh_read_gaps_total", "Times that retention removed events before they were read."),
}
_OBJECTS: Final = {
    "rows": ("dimesh_source_rows_total", "Rows of snapshots that were read, in all runs."),
    "changes": ("dimesh_source_changes_total", "Changes that were published, in all runs."),
    "errors": ("dimesh_source_errors_total", "Errors since the process started."),
    "gaps": ("dimesh_source_gaps_total", "Gaps that were found, in all runs."),
    "repairs": ("dimesh_source_repairs_total", "Repairs of gaps that began, in all runs."),
    "repaired": ("dimesh_source_repaired_total", "Repairs of gaps that ended, in all runs."),
    "deleted": ("dimesh_source_repair_deleted_total", "Rows that repairs found to be deleted, in all runs."),
    "skipped": (
        "dimesh_source_skipped_total",
        "Changes without a key, which were not published, in all runs.",
    ),
    "requests": (
        "dimesh_source_object_requests_total",
        "Requests to the system for the object, in all runs.",
    ),
}
_PHASES: Final = ("waiting", "standby", "snapshot", "stream", "paused", "backoff", "failed", "stopped")
Pair = tuple[str, str]


class Names:
    """Decides which topics and groups have a label of their own, so that no stream of new names creates series without end.

    Args:
        settings: the settings, whose names have labels.
    """

    def __init__(self, settings: MeshSettings) -> None:
        self._groups = {section.group or section.call for section in settings.handlers}
        self._topics: set[str] = set()
        for section in settings.handlers:
            topics = [section.topic] if isinstance(section.topic, str) else section.topic
            for topic in (*topics, *([section.produce_to] if section.produce_to else [])):
                if not is_pattern(topic):
                    self.topic(topic)

    def topic(self, name: str) -> str:
        """Return the label of a topic."""
        if name in self._topics:
            return name
        if len(self._topics) >= MOST_TOPICS:
            return OTHER
        self._topics.add(name)
        return name

    def group(self, name: str) -> str:
        """Return the label of a group."""
        return name if name in self._groups else OTHER


@dataclass(slots=True)
class _Subscribed:
    """The subscriptions of one topic and group, added up."""

    numbers: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    in_flight: int = 0
    states: set[SubscriptionState] = field(default_factory=set)


class Metrics:
    """Collects the metrics of one mesh.

    Args:
        watch: watches the mesh.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._mesh = watch.mesh
        self._names = Names(watch.mesh.settings)

    async def collect(self) -> list[Family]:
        """Return all metrics as of now."""
        readiness = await self._watch.readiness()
        groups, _ = await self._watch.groups() if readiness.stage == "running" else ((), "")
        return [
            *self._process(readiness.ready),
            *self._published(),
            *self._subscriptions(),
            *self._errors(),
            *self._schemas(),
            *self._lag((g.topic, g.group, g.lag) for g in groups),
            *self._sources(),
            *self._lineage(),
        ]

    def _process(self, ready: bool) -> list[Family]:
        from dimesh import __version__

        build = (__version__, platform.python_version(), self._mesh.settings.bus.driver)
        return [
            Family("dimesh_build_info", "gauge", "The versions, and the driver of the bus.",
                   ("version", "python", "bus"), [(build, 1)]),
            Family("process_start_time_seconds", "gauge", "The time at which the process started.", (),
                   [((), _STARTED)]),
            Family("process_cpu_seconds_total", "counter", "The CPU time of the process.", (),
                   [((), time.process_time())]),
            Family("dimesh_ready", "gauge", "1 if /readyz says that the mesh is ready.", (), [((), int(ready))]),
        ]  # fmt: skip

    def _published(self) -> list[Family]:
        counts = self._mesh.counts
        totals: dict[str, int] = defaultdict(int)
        for topic, count in (counts.events if counts is not None else {}).items():
            totals[self._names.topic(topic)] += count
        samples: list[Sample] = [((topic,), count) for topic, count in totals.items()]
        return [
            Family("dimesh_events_published_total", "counter", "Events that this process published.", ("topic",), samples)
        ]  # fmt: skip

    def _subscriptions(self) -> list[Family]:
        found: dict[Pair, _Subscribed] = {}
        for id, stats in self._mesh.bus.stats().items():
            subscription = self._mesh.bus.subscription(id)
            spec = subscription.spec
            if spec.group is None:
                continue  # of the engine itself, such as that for replies
            pair = self._names.topic(spec.topic), self._names.group(spec.group)
            total = found.setdefault(pair, _Subscribed())
            for name in (*_EVENTS, *_CALLS):
                total.numbers[name] += getattr(stats, name)
            total.in_flight += subscription.in_flight.count
            total.states.add(stats.state)

        def family(name: str, kind: str, text: str, numbers: Iterable[tuple[Pair, float]]) -> Family:
            return Family(name, kind, text, ("topic", "group"), list(numbers))  # type: ignore[arg-type]

        def counted(name: str) -> Iterable[tuple[Pair, float]]:
            return ((pair, total.numbers[name]) for pair, total in found.items())

        states: list[Sample] = [
            ((*pair, state.value), int(state in total.states))
            for pair, total in found.items()
            for state in SubscriptionState
        ]
        return [
            *(family(f"dimesh_events_{f}_total", "counter", text, counted(f)) for f, text in _EVENTS.items()),
            *(family(name, "counter", text, counted(f)) for f, (name, text) in _CALLS.items()),
            family("dimesh_events_in_flight", "gauge", "Events that were received and are not finished.",
                   ((pair, total.in_flight) for pair, total in found.items())),
            Family("dimesh_subscription_state", "gauge", "1 for its state; 'open': the circuit breaker is open.",
                   ("topic", "group", "state"), states),
        ]  # fmt: skip

    def _errors(self) -> list[Family]:
        counts = self._mesh.counts
        open_ = {id: self._mesh.bus.subscription(id).spec for id in self._mesh.bus.stats()}
        totals: dict[tuple[str, str, str], int] = defaultdict(int)
        for (id, error), count in (counts.errors if counts is not None else {}).items():
            spec = open_.get(id)
            topic = self._names.topic(spec.topic) if spec is not None else OTHER
            group = self._names.group(spec.group or OTHER) if spec is not None else OTHER
            totals[topic, group, error] += count
        samples: list[Sample] = list(totals.items())
        return [
            Family("dimesh_handler_failures_total", "counter", "Calls of handlers that failed, by the class of the error.",
                   ("topic", "group", "error"), samples)
        ]  # fmt: skip

    def _schemas(self) -> list[Family]:
        totals: dict[tuple[str, str, str], int] = defaultdict(int)
        for (topic, stage, outcome), count in self._mesh.bus.schema_counts.items():
            totals[self._names.topic(topic), stage, outcome] += count
        samples: list[Sample] = list(totals.items())
        return [
            Family("dimesh_schema_failures_total", "counter", "Events that failed the check of their schema, or had none to be "
                   "checked with.", ("topic", "stage", "outcome"), samples)
        ]  # fmt: skip

    def _lag(self, partitions: Iterable[tuple[str, str, int | None]]) -> list[Family]:
        totals: dict[Pair, int] = defaultdict(int)
        for topic, group, lag in partitions:
            if lag is not None and self._names.group(group) != OTHER:
                totals[self._names.topic(topic), group] += lag
        samples: list[Sample] = list(totals.items())
        return [
            Family("dimesh_group_lag_events", "gauge", "Events that the group has not handled yet, in all processes.",
                   ("topic", "group"), samples)
        ]  # fmt: skip

    def _sources(self) -> list[Family]:
        reports = self._mesh.source_reports()

        def kinds() -> list[str]:
            from dimesh.cdc.verification.comparison import Kind

            return [kind.value for kind in Kind]

        now = self._mesh.clock.time()
        objects = [
            ((name, of), one) for name, report in reports.items() for of, one in report.objects.items()
        ]
        labels = ("source", "object")

        def gauge(name: str, text: str, samples: Sequence[Sample]) -> Family:
            return Family(name, "gauge", text, labels, samples)

        def account(name: str, text: str, key: str) -> Family:
            samples: list[Sample] = [((n,), r.account[key]) for n, r in reports.items() if key in r.account]
            return Family(name, "counter", text, ("source",), samples)

        phases: list[Sample] = [
            ((*pair, phase), int(one.phase == phase)) for pair, one in objects for phase in _PHASES
        ]
        return [
            gauge("dimesh_source_up", "1 if the object can be captured.", [(p, int(not o.error)) for p, o in objects]),
            Family("dimesh_source_phase", "gauge", "1 for the phase of the object.", (*labels, "phase"), phases),
            gauge("dimesh_source_down_since_timestamp_seconds", "The start of the outage; 0 if there is none.",
                  [(p, o.since if o.error else 0) for p, o in objects]),
            gauge("dimesh_source_last_error_timestamp_seconds", "The time of the last error; 0 if there was none.",
                  [(p, o.last_error_at) for p, o in objects]),
            gauge("dimesh_source_lag_seconds", "The time since the system answered last.",
                  [(p, max(now - o.last_read, 0)) for p, o in objects if o.last_read]),
            gauge("dimesh_source_last_change_timestamp_seconds", "The time of the last change by the source's clock.",
                  [(p, o.last_change) for p, o in objects if o.last_change]),
            *(Family(name, "counter", text, labels, [(p, getattr(o, f)) for p, o in objects])
              for f, (name, text) in _OBJECTS.items()),
            Family("dimesh_source_verified_rows_total", "counter", "Rows that were compared with the source.", labels,
                   [(p, o.verified.rows) for p, o in objects if o.verified]),
            Family("dimesh_source_wrong_rows", "gauge", "Rows that differ from what was published, by kind of error.",
                   (*labels, "kind"), [((*p, kind), (o.verified.kinds if o.verified else {}).get(kind, 0))
                                       for p, o in objects if o.verified for kind in kinds()]),
            gauge("dimesh_source_wrong_ratio_upper_bound", "The upper bound of the share of wrong rows (95 % confidence).",
                  [(p, o.verified.upper) for p, o in objects if o.verified]),
            gauge("dimesh_source_missing_rows", "Rows that the last repair did not see, and whose fate is unknown.",
                  [(p, o.missing) for p, o in objects]),
            gauge("dimesh_source_held_back_seconds", "The time for which the source itself held the last change back.",
                  [(p, o.held_back) for p, o in objects if o.held_back is not None]),
            Family("dimesh_source_heartbeat_timestamp_seconds", "gauge", "The time of the last report for other processes.",
                   ("source",), [((n,), r.heartbeat) for n, r in reports.items() if r.heartbeat]),
            Family("dimesh_source_budget_used_ratio", "gauge", "The share of the budget of requests that was used in the last "
                   "minute.", ("source",), [((n,), r.account["budget_used"]) for n, r in reports.items()
                                            if "budget_used" in r.account]),
            account("dimesh_source_requests_total", "Requests to the source's account by this process.", "requests"),
            account("dimesh_source_requests_refused_total", "Requests that the system refused for their rate.",
                    "requests_refused"),
        ]  # fmt: skip

    def _lineage(self) -> list[Family]:
        counts = self._mesh.lineage_counts()

        def samples(name: str) -> list[Sample]:
            return [((), counts[name])] if counts is not None else []

        return [
            Family("dimesh_lineage_observations_total", "counter", "Observations of lineage.", (), samples("recorded")),
            Family("dimesh_lineage_dropped_total", "counter", "Observations that were dropped for lack of space.", (),
                   samples("dropped")),
            Family("dimesh_lineage_pending", "gauge", "Observations and records that are not written yet.", (),
                   samples("pending")),
        ]  # fmt: skip
