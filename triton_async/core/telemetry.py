"""Traces as OpenTelemetry spans, through its SDK, which comes with the extra `opentelemetry`.

Begun on the loop, ended on a thread of their own; the SDK's thread exports them.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from triton_async.config.trace_config import BATCHING, TraceConfig
from triton_async.core.tracing import Group, Record
from triton_async.defines import TRACE_QUEUE
from triton_async.errors import InvalidArg

log = logging.getLogger("triton_async.core")

Fields = Sequence[tuple[str, str]]

# The headers of W3C's trace context.
_CONTEXT = ("traceparent", "tracestate")
# Of the events, those that belong to the span of the execution, and to that of the front-end.
_COMPUTE = ("COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END")
_FRONT_END = ("HTTP_", "GRPC_")


class Spans:
    """Those of one traced request: of the call, None for a request of a model, and of the model's part in it."""

    __slots__ = ("began_ns", "call", "model")

    def __init__(self, call: Any, model: Any, began_ns: int) -> None:
        self.call = call
        self.model = model
        self.began_ns = began_ns

    def context(self) -> str:
        """W3C's headers of the model's span, as JSON: what Python models are given."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(self.model))
        return json.dumps(carrier)


class Telemetry:
    """The recorder of trace mode opentelemetry. InvalidArg where its packages are missing."""

    reads_context = True

    def __init__(self, config: TraceConfig, server_id: str) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise InvalidArg(
                f"trace mode opentelemetry needs packages that are not installed ({error.name}): "
                "pip install 'triton-async[opentelemetry]'"
            ) from None
        self._config = config
        attributes = {"service.name": "triton-inference-server", "service.instance.id": server_id, **config.resource}
        batching = config.batching
        processor = BatchSpanProcessor(
            OTLPSpanExporter(endpoint=config.endpoint),
            max_queue_size=batching.get("bsp_max_queue_size"),
            schedule_delay_millis=batching.get("bsp_schedule_delay"),
            max_export_batch_size=batching.get("bsp_max_export_batch_size"),
        )
        # What is traced is decided before a span is made.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create(attributes), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("triton_async")
        self._propagator = TraceContextTextMapPropagator()
        self._api = trace
        # Of CLOCK_MONOTONIC; it moves where the clock is set, which no trace is long enough to see.
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        self._waiting: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._lost = 0
        self._thread = threading.Thread(target=self._main, name="telemetry", daemon=True)
        self._thread.start()

    def settings(self) -> Mapping[str, str]:
        """Those of the mode, by the names of --trace-config."""
        shown = {"url": self._config.url}
        if self._config.resource:
            shown["resource"] = ",".join(f"{name}={value}" for name, value in self._config.resource.items())
        return shown | {name: str(self._config.batching.get(name, BATCHING[name][1])) for name in BATCHING}

    def context(self, fields: Fields) -> tuple[Any, bool] | None:
        """Of a request's headers; a context that is malformed counts as none, as W3C has it."""
        carrier = {name.lower(): value for name, value in fields if name.lower() in _CONTEXT}
        if "traceparent" not in carrier:
            return None
        context = self._propagator.extract(carrier)
        found = self._api.get_current_span(context).get_span_context()
        return (context, bool(found.trace_flags.sampled)) if found.is_valid else None

    def begin(self, model: str, request_id: str, parent: Any, began_ns: int) -> Spans:
        """The spans of a new trace."""
        start = began_ns + self._epoch_ns
        if isinstance(parent, Spans):
            context = self._api.set_span_in_context(parent.model)
            return Spans(None, self._tracer.start_span(model, context, start_time=start), began_ns)
        call = self._tracer.start_span("InferRequest", parent, self._api.SpanKind.SERVER, start_time=start)
        span = self._tracer.start_span(model, self._api.set_span_in_context(call), start_time=start)
        return Spans(call, span, began_ns)

    def put(self, record: Record) -> None:
        """Ends the spans of a trace. Any thread; at TRACE_QUEUE of them that wait it is lost, and counted."""
        if self._waiting.qsize() >= TRACE_QUEUE:
            self._lost += 1
            return
        self._waiting.put(record)

    def end_group(self, group: Group) -> None:
        """Spans of all groups are sent alike."""

    def close(self) -> None:
        """Sends what there is."""
        self._waiting.put(None)
        self._thread.join()
        self._provider.shutdown()
        if self._lost:
            log.warning("%d traces were lost", self._lost)

    # -- the thread --------------------------------------------------------------------------------

    def _main(self) -> None:
        while (record := self._waiting.get()) is not None:
            try:
                self._end(record)
            except Exception:
                log.exception("a trace could not be sent")
            del record

    def _end(self, record: Record) -> None:
        number, parent_id, model, version, request_id, events, _, _, spans = record
        at = dict(events)
        last_ns = max([at_ns for _, at_ns in events], default=spans.began_ns)
        for name, value in (
            ("triton.model_name", model), ("triton.model_version", version), ("triton.trace_id", number),
            ("triton.trace_parent_id", parent_id), ("triton.request_id", request_id),
        ):  # fmt: skip
            if value:
                spans.model.set_attribute(name, value)
        if "COMPUTE_START" in at:
            context = self._api.set_span_in_context(spans.model)
            compute = self._tracer.start_span("compute", context, start_time=at["COMPUTE_START"] + self._epoch_ns)
            self._add(compute, [event for event in events if event[0] in _COMPUTE])
            compute.end(at["COMPUTE_END"] + self._epoch_ns)
        own = [event for event in events if event[0] not in _COMPUTE and not event[0].startswith(_FRONT_END)]
        self._add(spans.model, own)
        spans.model.end(at.get("REQUEST_END", last_ns) + self._epoch_ns)
        if spans.call is not None:
            self._add(spans.call, [event for event in events if event[0].startswith(_FRONT_END)])
            spans.call.end(last_ns + self._epoch_ns)

    def _add(self, span: Any, events: Sequence[tuple[str, int]]) -> None:
        for name, at_ns in sorted(events, key=lambda event: event[1]):
            span.add_event(name, timestamp=at_ns + self._epoch_ns)
