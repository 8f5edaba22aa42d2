"""One OpenTelemetry trace for each object version, from notification to receipt.

The trace's id is made of the object's identity: listener and runs, which share nothing but the event, write
into the same trace. Off, and nothing of it imported, unless OTEL_EXPORTER_OTLP_ENDPOINT is set; all else is
said by OpenTelemetry's own variables, too. No span holds a reason or an error's text: they quote from files.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from dropflow.logs import hide
from dropflow.objects import ObjectRef, printable

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
WHOLE = "object"
"""The span that all others of a trace are in: it is sent last, by whoever settles the object."""
FLUSH_SECONDS = 3.0
"""For which a process waits at its end until its spans have left."""

_here: ContextVar["Context | None"] = ContextVar("here", default=None)
"""The span that this thread is in."""
_whole: ContextVar[tuple[int, int] | None] = ContextVar("whole", default=None)
"""Ids for the span that is being made, where they are not to be random."""
_making = threading.Lock()


def is_on() -> bool:
    return any(os.environ.get(name) for name in SWITCHES)


def record(name: str, ref: ObjectRef, began: int, **attributes: Any) -> None:
    """A span of the object's trace that began then, in ns since 1970, and has ended now."""
    if (made := _started(name, ref, began, attributes)) is not None:
        made.end()


@contextmanager
def span(name: str, ref: ObjectRef, began: int | None = None, **attributes: Any) -> Iterator[None]:
    """A span of the object's trace around what is done inside."""
    if (made := _started(name, ref, began, attributes)) is None:
        yield
        return
    with _inside(made):
        yield


def settled(ref: ObjectRef, began: int, *, good: bool, **attributes: Any) -> None:
    """The object's whole trace has ended now."""
    from opentelemetry.context import Context
    from opentelemetry.trace import StatusCode

    if (provider := _provider(ref)) is None:
        return
    token = _whole.set(_ids(ref))
    try:
        tracer = provider.get_tracer("dropflow")
        made = tracer.start_span(WHOLE, Context(), attributes=_told(ref, attributes), start_time=began)
    finally:
        _whole.reset(token)
    made.set_status(StatusCode.OK if good else StatusCode.ERROR)
    made.end()


def staged(stage: Callable[..., Any]) -> Callable[..., Any]:
    """`stage` with a span around each that is called inside `span`; itself where nothing is traced."""
    if not is_on():
        return stage

    def spanned(title: str, function: Callable[..., Any], *arguments: Any) -> Any:
        here, provider = _here.get(), _made()
        if here is None or provider is None:
            return stage(title, function, *arguments)
        # What follows names columns, which are not ours to send.
        name = title.partition(" ")[0]
        with _inside(provider.get_tracer("dropflow").start_span(name, here)):
            return stage(title, function, *arguments)

    return spanned


def warm_up() -> None:
    """Import what is needed, where processes are forked from this one. Nothing is made yet."""
    if is_on():
        with suppress(ImportError):
            import opentelemetry.exporter.otlp.proto.http.trace_exporter
            import opentelemetry.sdk.trace.export  # noqa: F401


def flush() -> None:
    """Send what is left, at a process's end. A collector that is away is not waited for any longer."""
    with _making:
        provider = _make() if _make.cache_info().currsize else None
        _make.cache_clear()
    if provider:
        thread = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        thread.start()
        thread.join(FLUSH_SECONDS)


def _started(name: str, ref: ObjectRef, began: int | None, attributes: dict[str, Any]) -> "Span | None":
    if (provider := _provider(ref)) is None:
        return None
    tracer = provider.get_tracer("dropflow")
    return tracer.start_span(
        name, _parent(provider, ref), attributes=_told(ref, attributes), start_time=began
    )


@contextmanager
def _inside(made: "Span") -> Iterator[None]:
    from opentelemetry.context import Context
    from opentelemetry.trace import StatusCode, set_span_in_context

    token = _here.set(set_span_in_context(made, Context()))
    try:
        yield
    except BaseException as error:
        made.set_status(StatusCode.ERROR, type(error).__name__)
        raise
    finally:
        _here.reset(token)
        made.end()


def _parent(provider: "TracerProvider", ref: ObjectRef) -> "Context":
    """The whole, which is made elsewhere: whether it is sampled is decided by its id, so alike everywhere."""
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import Decision
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    trace_id, span_id = _ids(ref)
    decision = provider.sampler.should_sample(Context(), trace_id, WHOLE).decision
    is_sampled = decision is Decision.RECORD_AND_SAMPLE
    flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
    whole = SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(whole), Context())


def _ids(ref: ObjectRef) -> tuple[int, int]:
    """Of the object's trace, and of the span that is its whole."""
    digest = hashlib.sha256(ref.identity.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


def _told(ref: ObjectRef, attributes: dict[str, Any]) -> dict[str, Any]:
    own = {f"dropflow.{name}": value for name, value in attributes.items() if value is not None}
    return {
        "aws.s3.bucket": ref.bucket,
        "aws.s3.key": printable(ref.key, 1024),
        "dropflow.etag": ref.etag,
        **own,
    }


def _provider(ref: ObjectRef) -> "TracerProvider | None":
    """None where nothing is traced, or the object has no identity yet."""
    return _made() if ref.etag and is_on() else None


def _made() -> "TracerProvider | None":
    with _making:
        return _make()


@lru_cache(maxsize=1)
def _make() -> "TracerProvider | None":
    """Ours alone, not the process's: Prefect would fill a global one with spans of its own."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    except ImportError as error:
        log.warning("nothing is traced: %s; pip install 'dropflow[otel]'", error)
        return None

    class Ids(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return ids[0] if (ids := _whole.get()) else super().generate_trace_id()

        def generate_span_id(self) -> int:
            return ids[1] if (ids := _whole.get()) else super().generate_span_id()

    headers = os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",")
    hide(unquote(header.partition("=")[2].strip()) for header in headers)
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "dropflow"}))
    provider = TracerProvider(resource=resource, id_generator=Ids(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
