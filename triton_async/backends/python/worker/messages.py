# cython: annotation_typing=False, wraparound=True
"""Requests and responses as models see them, the response sender, and inference requests of a model to others (BLS)."""

from __future__ import annotations

import asyncio
import json
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Iterator, Sequence, cast

from .calls import Call
from .forks import REFUSAL, is_fork
from .tensors import Tensor, TritonModelException, from_source

if TYPE_CHECKING:
    from .channel import RequestSource
    from .context import Context

FLAG_SEQUENCE_START, FLAG_SEQUENCE_END = 1, 2
COMPLETE_FINAL = 1
RELEASE_ALL, RELEASE_RESCHEDULE = 1, 2


class ErrorCode(IntEnum):
    """TRITONSERVER_Error_Code."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


class TritonError:
    """The error of a response."""

    __slots__ = ("_code", "_message")

    UNKNOWN = ErrorCode.UNKNOWN
    INTERNAL = ErrorCode.INTERNAL
    NOT_FOUND = ErrorCode.NOT_FOUND
    INVALID_ARG = ErrorCode.INVALID_ARG
    UNAVAILABLE = ErrorCode.UNAVAILABLE
    UNSUPPORTED = ErrorCode.UNSUPPORTED
    ALREADY_EXISTS = ErrorCode.ALREADY_EXISTS
    CANCELLED = ErrorCode.CANCELLED

    def __init__(self, message: str, code: ErrorCode = ErrorCode.INTERNAL) -> None:
        if not isinstance(message, str) or type(code) is not ErrorCode:
            raise _wrong_arguments("TritonError(message: str, code: TritonError.ErrorCode = TritonError.INTERNAL)")
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> ErrorCode:
        return self._code

    def __str__(self) -> str:
        return self._message


class MemoryType(IntEnum):
    """TRITONSERVER_MemoryType, of preferred memory."""

    TRITONSERVER_MEMORY_CPU = 0
    TRITONSERVER_MEMORY_GPU = 2


class PreferredMemory:
    """Where the outputs of an inner request had best be."""

    __slots__ = ("device_id", "memory_type")

    def __init__(self, preferred_memory_type: MemoryType, preferred_device_id: int = 0) -> None:
        if type(preferred_memory_type) is not MemoryType or not isinstance(preferred_device_id, int):
            raise _wrong_arguments("PreferredMemory(preferred_memory_type: MemoryType, preferred_device_id: int = 0)")
        self.memory_type = preferred_memory_type
        self.device_id = preferred_device_id


class InferenceTrace:
    """The trace of a request, to be handed on. What a request asks of other models is part of it all the same."""

    __slots__ = ("_context",)

    def __init__(self, context: str | None = None) -> None:
        self._context = context

    def get_context(self) -> str | None:
        """OpenTelemetry's, as JSON; None where there is none."""
        return self._context


class InferenceResponse:
    """A response: tensors, or an error, and parameters."""

    __slots__ = ("_error", "_outputs", "_parameters")

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        outputs = list(output_tensors) if isinstance(output_tensors, (list, tuple)) else None
        if outputs is None or not (error is None or isinstance(error, TritonError)):
            raise _wrong_response()
        for tensor in outputs:
            if not isinstance(tensor, Tensor):
                raise _wrong_response() if tensor is not None else TritonModelException(
                    "Output tensor for response should not be empty."
                )
        if parameters is not None:
            check_parameters(parameters)
        self._outputs = [] if error is not None else outputs
        self._error = error
        self._parameters = parameters

    def output_tensors(self) -> list[Tensor]:
        return self._outputs

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        """As JSON text."""
        return parameters_text(self._parameters)


class InferenceResponseSender:
    """Answers one request, from any thread, also after `execute` has returned."""

    # `_open`: it has sent the only response of a model that is not decoupled, and not yet the final flag.
    __slots__ = ("_context", "_open", "_source")

    def __init__(self, context: Context, source: RequestSource) -> None:
        self._context = context
        self._source = source
        self._open = False

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Sends a response, or none with the final flag. Waits for a reader that is much slower than the model."""
        context, source = self._context, self._source
        if is_fork():
            raise TritonModelException(REFUSAL)
        if response is not None and not isinstance(response, InferenceResponse):
            raise TypeError(f"send(): expected an InferenceResponse, found type '{type(response)}'.")
        if flags not in (0, COMPLETE_FINAL):
            raise TritonModelException(
                "Unable to send response. Unsupported flag provided. Only TRITONSERVER_RESPONSE_COMPLETE_FINAL flag "
                "and 0 are supported."
            )
        if self._open and response is None and flags:
            self._open = False  # Triton's may be told what it knows
            return
        if source.finished and (context.decoupled or response is None or not source.sent):
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        if not context.decoupled:
            if response is None and flags:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send complete final before sending a "
                    "response."
                    if source.sent == 0
                    else "Unable to send response. Response sender has been closed."
                )
            if source.sent:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send more than one response."
                )
        if response is None and not flags:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        final = not context.decoupled or flags == COMPLETE_FINAL
        if final:
            source.finished = True
        elif context.channel.congested(source):
            context.channel.wait_for_relief(source)
        source.sent += 1
        self._open = final and not flags
        context.send(source, response, final)
        if final:
            context.channel.release(source)

    def is_cancelled(self) -> bool:
        return self._context.channel.is_cancelled(self._source)


class OutgoingRequest:
    """The fields of a request that a model has made."""

    __slots__ = (
        "correlation_id", "flags", "id", "inner_model", "model_version", "output_names", "parameters",
        "preferred_memory", "release_flags", "timeout",
    )  # fmt: skip

    id: str
    correlation_id: int | str
    flags: int
    timeout: int
    parameters: dict[str, Any] | None
    output_names: list[str]
    inner_model: str
    model_version: int
    preferred_memory: PreferredMemory | None
    release_flags: int


class InferenceRequest:
    """A request: one that the model is to answer, or one that it makes to another model."""

    # `_source`: a RequestSource or an OutgoingRequest. `_inputs`, `_sender`: None until asked for.
    __slots__ = ("_inputs", "_sender", "_source")

    # Of the instance whose model it is, see `api.make_module`.
    _context: Context

    def __init__(  # noqa: PLR0917
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] | None = None,
        requested_output_names: Sequence[str] | None = None,
        model_name: str | None = None,
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: InferenceTrace | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        if inputs is None or requested_output_names is None or model_name is None:
            raise _wrong_request("inputs, requested_output_names and model_name must be given")
        _check_request(request_id, correlation_id, inputs, requested_output_names, model_name)
        _check_numbers(correlation_id, model_version, flags, timeout)
        if preferred_memory is not None and not isinstance(preferred_memory, PreferredMemory):
            raise _wrong_request("preferred_memory must be a PreferredMemory")
        if trace is not None and not isinstance(trace, InferenceTrace):
            raise _wrong_request("trace must be an InferenceTrace")
        if parameters is not None:
            check_parameters(parameters)
        source = OutgoingRequest()
        self._source: RequestSource | OutgoingRequest = source
        source.id = request_id
        source.correlation_id = correlation_id
        source.flags = flags
        source.timeout = timeout
        source.parameters = parameters
        source.output_names = list(requested_output_names)
        source.inner_model = model_name
        source.model_version = model_version
        source.preferred_memory = preferred_memory
        source.release_flags = RELEASE_ALL
        self._inputs: list[Tensor] | None = list(inputs)
        self._sender: InferenceResponseSender | None = None

    # -- what it says ----------------------------------------------------------------------------------------------

    def inputs(self) -> list[Tensor]:
        inputs = self._inputs
        if inputs is None:
            found = cast("RequestSource", self._source).inputs()
            inputs = self._inputs = [from_source(name, source) for name, source in found]
        return inputs

    def request_id(self) -> str:
        return self._source.id

    def correlation_id(self) -> int | str:
        return self._source.correlation_id

    def flags(self) -> int:
        return self._source.flags

    def set_flags(self, flags: int) -> None:
        self._source.flags = flags

    def timeout(self) -> int:
        return self._source.timeout

    def parameters(self) -> str:
        """As JSON text: compact of a request that came, with blanks of one that the model made."""
        source = self._source
        if type(source) is OutgoingRequest:
            return json.dumps(source.parameters or {})
        return parameters_text(source.parameters)

    def requested_output_names(self) -> set[str]:
        return set(self._source.output_names)

    def trace(self) -> InferenceTrace:
        return InferenceTrace(getattr(self._source, "trace_context", None))

    # -- of a request that came ------------------------------------------------------------------------------------

    def is_cancelled(self) -> bool:
        return self._context.channel.is_cancelled(self._came("is_cancelled"))

    def set_release_flags(self, flags: int) -> None:
        self._source.release_flags = flags

    def get_response_sender(self) -> InferenceResponseSender:
        sender = self._sender
        if sender is None:
            sender = self._sender = InferenceResponseSender(self._context, self._came("get_response_sender"))
        return sender

    def _came(self, method: str) -> RequestSource:
        if type(self._source) is OutgoingRequest:
            raise TritonModelException(f"{method}() is for requests that the model is to answer.")
        return cast("RequestSource", self._source)

    # -- of one that the model makes -------------------------------------------------------------------------------

    def exec(self, decoupled: bool = False) -> InferenceResponse | ResponseIterator:
        """Runs the request on another model, and waits: its response, or an iterator of responses."""
        call = self._begin(decoupled, not decoupled)
        return ResponseIterator(call) if decoupled else _only(call.next())

    def async_exec(self, decoupled: bool = False) -> Any:
        """The same to be awaited, in a coroutine. The request is on its way when this returns."""
        loop = asyncio.get_running_loop()
        call = self._begin(decoupled, False)
        return loop.create_task(_awaited(call))

    def _begin(self, decoupled: bool, waits: bool) -> Call:
        context = self._context
        if not context.executing:
            raise TritonModelException("BLS is only supported during the 'execute' function.")
        if is_fork():
            raise TritonModelException(REFUSAL)
        if type(self._source) is not OutgoingRequest:
            raise TritonModelException("exec() is for requests that the model has made, not for those it is to answer.")
        call = Call(bool(decoupled), waits)
        context.channel.submit(self, call)
        return call


def incoming(request_class: type[InferenceRequest], source: RequestSource) -> InferenceRequest:
    """The request of the server that `source` stands for."""
    request = request_class.__new__(request_class)
    request._source = source
    request._inputs = request._sender = None
    return request


class ResponseIterator:
    """The responses of a request to a decoupled model. May be gone through several times, also by `async for`: a loop
    goes on where the last one was left, and begins anew behind the last response. Its end cancels what has not come
    yet.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._seen: list[InferenceResponse] = []
        self._at = 0
        self._complete = False

    def __iter__(self) -> Iterator[InferenceResponse]:
        self._begin()
        return self

    def __next__(self) -> InferenceResponse:
        if self._at == len(self._seen) and not self._add(self._call.next()):
            raise StopIteration
        self._at += 1
        return self._seen[self._at - 1]

    def __aiter__(self) -> ResponseIterator:
        self._begin()
        return self

    async def __anext__(self) -> InferenceResponse:
        if self._at == len(self._seen) and not self._add(await self._call.next_async()):
            raise StopAsyncIteration
        self._at += 1
        return self._seen[self._at - 1]

    def cancel(self) -> None:
        """The model needs no more of them."""
        self._call.cancel()

    def __del__(self) -> None:
        self._call.cancel()

    def _begin(self) -> None:
        if self._complete and self._at == len(self._seen):
            self._at = 0

    # Word alone that nothing follows is an empty response: what a model sends behind the others.
    def _add(self, item: Any) -> bool:
        if item is None:
            return False
        self._complete = item[1]
        self._seen.append(InferenceResponse() if item[0] is None else item[0])
        return True


async def _awaited(call: Call) -> InferenceResponse | ResponseIterator:
    try:
        if not call.decoupled:
            return _only(await call.next_async())
        iterator = ResponseIterator(call)
        iterator._add(await call.next_async())
        return iterator
    except asyncio.CancelledError:
        call.cancel()
        raise


def _only(item: Any) -> InferenceResponse:
    return InferenceResponse() if item is None or item[0] is None else item[0]


def parameters_text(parameters: dict[str, Any] | None) -> str:
    return json.dumps(parameters, separators=(",", ":"), ensure_ascii=False) if parameters else "{}"


def check_parameters(parameters: Any) -> None:
    """TritonModelException unless it is a dict of str to bool, int or str."""
    if type(parameters) is not dict:
        raise TritonModelException(f"Expect parameters to be a dict, got {type(parameters)}")
    for key, value in parameters.items():
        if type(key) is not str:
            raise TritonModelException(f"Expect parameters keys to have type str, found type {type(key)}")
        if type(value) not in (bool, int, str):
            raise TritonModelException(
                f"Expect parameters values to have type bool/int/str, found type {type(value)}"
            )
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise TritonModelException(f"Expect parameters values to fit in 64 bits, found {value}")


def _check_request(request_id: Any, correlation_id: Any, inputs: Any, names: Any, model: Any) -> None:
    if type(request_id) is not str or type(model) is not str or not isinstance(correlation_id, (int, str)):
        raise _wrong_request("request_id and model_name must be str, correlation_id int or str")
    if not isinstance(inputs, (list, tuple)):
        raise _wrong_request("inputs must be a list of Tensor objects")
    for tensor in inputs:
        if tensor is None:
            raise TritonModelException(
                f"Input tensor for request with id '{request_id}' and model name '{model}' should not be empty."
            )
        if not isinstance(tensor, Tensor):
            raise _wrong_request("inputs must be a list of Tensor objects")
    if isinstance(names, (str, bytes)) or not all(isinstance(name, str) for name in names):
        raise _wrong_request("requested_output_names must be a list of str")
    if "" in names:
        raise TritonModelException(
            f"Requested output name for request with id '{request_id}' and model name '{model}' should not be empty."
        )


def _check_numbers(correlation_id: Any, version: Any, flags: Any, timeout: Any) -> None:
    if not (isinstance(version, int) and isinstance(flags, int) and isinstance(timeout, int)):
        raise _wrong_request("model_version, flags and timeout must be int")
    if isinstance(correlation_id, int) and not 0 <= correlation_id < 2**64:
        raise RuntimeError(f"correlation_id must be 0 to 2^64 - 1, got {correlation_id}")
    if not 0 <= timeout < 2**64 or not -(2**63) <= version < 2**63 or not 0 <= flags < 2**32:
        raise _wrong_request("timeout and flags must not be negative, and model_version must fit in 64 bits")


def _wrong_request(why: str) -> TypeError:
    return _wrong_arguments(
        "InferenceRequest(request_id: str = '', correlation_id: Union[int, str] = 0, *, inputs: List[Tensor], "
        "requested_output_names: List[str], model_name: str, model_version: int = -1, flags: int = 0, "
        "timeout: int = 0, preferred_memory: PreferredMemory = None, trace: InferenceTrace = None, "
        f"parameters: dict = None)\n\n{why}"
    )


def _wrong_response() -> TypeError:
    return _wrong_arguments(
        "InferenceResponse(output_tensors: List[Tensor] = [], error: TritonError = None, parameters: dict = None)"
    )


def _wrong_arguments(signature: str) -> TypeError:
    return TypeError(
        "__init__(): incompatible constructor arguments. The following argument types are supported:\n"
        f"    1. c_python_backend_utils.{signature}"
    )
