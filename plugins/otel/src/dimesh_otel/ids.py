"""Lets a span without a parent begin in the trace of its event: the SDK has no argument for that, but asks a generator of ids."""

from __future__ import annotations

import threading

from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Tracer


class EventIds(IdGenerator):
    """Generates as another generator does, except for a trace id that was given for the next root span of the thread.

    Args:
        generator: the other generator.
    """

    def __init__(self, generator: IdGenerator) -> None:
        self._generator = generator
        self._next = threading.local()

    @staticmethod
    def of(tracer: Tracer) -> EventIds | None:
        """Make a tracer of the SDK generate its ids here; return None for a tracer of somebody else, whose traces are its own.

        A provider gives the same tracer to everybody who asks with the same name, so it may have been done before.
        """
        if not isinstance(tracer, SdkTracer):
            return None
        if not isinstance(tracer.id_generator, EventIds):
            tracer.id_generator = EventIds(tracer.id_generator)
        return tracer.id_generator

    def give(self, trace_id: int) -> None:
        """Use this id for the next root span that this thread starts."""
        self._next.trace_id = trace_id

    def generate_trace_id(self) -> int:
        """Return the id that was given, else a new one."""
        given: int = self._next.__dict__.pop("trace_id", 0)
        return given or self._generator.generate_trace_id()

    def generate_span_id(self) -> int:
        """Return a new id."""
        return self._generator.generate_span_id()

    def is_trace_id_random(self) -> bool:
        """Return what the other generator says: ids of events are random, too, unless a user chose them."""
        random = getattr(self._generator, "is_trace_id_random", None)
        return random is not None and random()
