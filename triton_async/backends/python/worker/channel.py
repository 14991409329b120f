"""The way from a Python model to its server. Who runs a model gives it one Channel; all that a model asks for or
answers goes through that.

    server --requests--> runner --api.InferenceRequest--> model.py --api.InferenceResponse--> Channel --> server

There are two: one in the server process, one in a worker process. A request stands behind its RequestSource, which the
channel makes and gets back; handles of metric families and metrics are its own objects, which nobody else looks into.

Threads: every method may be called from any thread, with no lock held, except where it says otherwise. A method that
says "blocks" may wait for the server; the others return at once. Nothing is called back on the thread that called.

Lifetime: as long as a RequestSource is referenced (an api.InferenceRequest and its response sender do; the runner lets
go with the end of `execute`) the model may still answer. When the last reference is gone and no final response was
sent, the channel ends the request with an error (`runner.unanswered`), and releases it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from .calls import Call
    from .messages import InferenceRequest, InferenceResponse


# Levels of `Channel.log`, the numbers of Triton's LogLevel.
INFO, WARNING, ERROR, VERBOSE = range(4)

# Kinds of metric families, the numbers of TRITONSERVER_MetricKind.
COUNTER, GAUGE, HISTOGRAM = range(3)


class Refused(Exception):
    """The server's No to something that a model asked of it. `code`: Triton's number, `message`: its text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class TensorSource(Protocol):
    """Where the bytes of a Tensor that came from the server are, for `api.Tensor`, which asks at most once for each
    form. Any thread.
    """

    #: Triton's name without `TYPE_`: "FP32", "BF16", "BYTES", ...
    datatype: str
    #: Dimensions, the batch dimension included.
    shape: tuple[int, ...]

    @property
    def gpu(self) -> int | None:
        """The GPU that has the elements; None: the host has them."""
        ...

    def dlpack(self) -> Any:
        """A DLPack capsule of what is on a GPU, all of it there."""
        ...

    def array(self) -> np.ndarray:
        """The elements: a C-contiguous, aligned, writable array of `shape`, over memory that nobody else writes to or
        sees change, and that stays valid as long as the array or a view of it lives, beyond the request too. BYTES: an
        object array of `bytes`. BF16: the bit patterns as uint16.
        """
        ...


class RequestSource(Protocol):
    """A request that came from the server: its handle, behind api.InferenceRequest. Asked only for what a model asks.

    The channel makes it, and may keep what it needs in it. Any thread.
    """

    id: str  # "" for none
    correlation_id: int | str  # 0 for none
    timeout: int  # microseconds, 0 for none
    parameters: dict[str, Any] | None  # values are str, bool, int or float
    output_names: list[str]  # asked for; all of the model when the request names none
    # Written by this package as well.
    flags: int  # TRITONSERVER_REQUEST_FLAG_*
    release_flags: int  # TRITONSERVER_REQUEST_RELEASE_*, 1 at first
    sent: int  # responses that were sent, 0 at first
    finished: bool  # the final one among them, or word that there is none; False at first

    def inputs(self) -> list[tuple[str, TensorSource]]:
        """Names and contents in the request's order. Asked once, before the request is released."""


class Channel(ABC):
    """One model instance's way to the server. See above for threads and lifetimes."""

    __slots__ = ()

    # -- requests --------------------------------------------------------------------------------------------------

    def returned(self) -> None:  # noqa: B027
        """`execute` has returned: what is sent next on its thread are the answers that it leaves, one behind the other.
        Nothing has to be done about it.
        """

    @abstractmethod
    def respond(self, request: RequestSource, response: InferenceResponse | None, final: bool) -> None:
        """Sends one response, or with None only word that it was the last one. Takes what the response holds over as it
        is now: the model may change or drop its arrays when this returns. Outputs that the request did not ask for, or
        that the model does not have, are left out here. Never waits for a reader.

        Refused, and nothing is sent, for outputs that cannot be sent: the runner makes an error response of that.
        The caller sees to it that nothing follows a final response of the same request.
        """

    def respond_last(self, request: RequestSource, responses: list[InferenceResponse]) -> None:
        """Sends the last of `responses`, in a list that nobody else has, as the final one, and takes it out there: so
        the channel has the only reference where the model has none, and may send arrays without a copy.
        """
        self.respond(request, responses.pop(), True)

    @abstractmethod
    def release(self, request: RequestSource, reschedule: bool = False) -> None:
        """Tells the server that the request is over for the model, in default mode behind the final response. What the
        model still has of it stays as it is. A second time nothing. `reschedule`: it has no final response, and comes
        again (TRITONSERVER_REQUEST_RELEASE_RESCHEDULE); Refused where the model is not configured for that.
        """

    @abstractmethod
    def is_cancelled(self, request: RequestSource) -> bool:
        """Nobody waits for the request's responses any more."""

    @abstractmethod
    def congested(self, request: RequestSource) -> bool:
        """So much of what was sent for this request is unread that the sender had better wait. Cheap: asked before each
        response of a sender that is not final.
        """

    @abstractmethod
    def wait_for_relief(self, request: RequestSource) -> None:
        """Blocks until the request is not congested, is cancelled, or the server ends."""

    # -- business logic scripting ----------------------------------------------------------------------------------

    @abstractmethod
    def submit(self, request: InferenceRequest, call: Call) -> None:
        """Sends an inference request of the model to a model of the server. `call` gets the responses, in order, the
        last one final, from any thread: `call.deliver(response, final)`. What the server refuses comes as an error
        response too, its text behind `calls.refusal`. Input arrays belong to the channel until the final response.

        A model that is decoupled, where `call.decoupled` is False, is refused. Sets `call.cancel_function`, if it can
        be cancelled. Does not wait for the other model, and raises Refused only for what can not be sent at all.
        """

    @abstractmethod
    def load_model(self, name: str, parameters: dict[str, Any]) -> None:
        """Loads a model and waits for it: blocks. `parameters`: "config" (str) and "file:<path>" (bytes). Refused."""

    @abstractmethod
    def unload_model(self, name: str, unload_dependents: bool) -> None:
        """Takes a model out of service: blocks until that has begun. Refused."""

    @abstractmethod
    def is_model_ready(self, name: str, version: int) -> bool:
        """Whether a model takes requests, -1 for any version: blocks. An unknown one does not."""

    # -- log -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def log(self, level: int, text: str, filename: str, line: int) -> None:
        """One entry of the server's log, from line `line` of the file whose last part is `filename`."""

    # -- metrics ---------------------------------------------------------------------------------------------------
    # A family lives in the server as long as one handle of it does, and a metric as long as one of its handles;
    # handles of equal families and metrics are of one. A handle that is dropped by `drop_*`, or by its channel's end,
    # is used no more.

    @abstractmethod
    def metric_family(self, name: str, description: str, kind: int) -> Any:
        """A handle. Refused: bad name, another kind under this name, a name of the server's own."""

    @abstractmethod
    def drop_family(self, family: Any) -> None:
        """Its metrics are to be dropped by themselves; they take no more operations."""

    @abstractmethod
    def metric(self, family: Any, labels: dict[str, str], buckets: tuple[float, ...] | None) -> Any:
        """A handle. `buckets`: ascending upper bounds, for histograms only. Refused: bad labels or buckets."""

    @abstractmethod
    def drop_metric(self, metric: Any) -> None:
        """A handle less."""

    @abstractmethod
    def metric_increment(self, metric: Any, value: float) -> None:
        """Refused: below zero for a counter, any for a histogram."""

    @abstractmethod
    def metric_set(self, metric: Any, value: float) -> None:
        """Refused: for all but gauges."""

    @abstractmethod
    def metric_observe(self, metric: Any, value: float) -> None:
        """Refused: for all but histograms."""

    @abstractmethod
    def metric_value(self, metric: Any) -> float:
        """Blocks, in a worker process. Refused: for histograms."""
