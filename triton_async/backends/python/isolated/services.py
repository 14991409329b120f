"""What a worker asks its server for besides inference of its own: other models, the log, metrics."""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

from triton_async.backends.base import InferenceCall, InferenceService, ModelInstance
from triton_async.backends.python.defines import WORKER_MAX_CALLS, WORKER_MAX_HANDLES, WORKER_MAX_QUESTIONS
from triton_async.backends.python.isolated.link import Link
from triton_async.backends.python.isolated.reader import Reader
from triton_async.backends.python.worker.calls import decoupled_refusal, refusal
from triton_async.backends.python.worker.channel import Refused
from triton_async.errors import DecoupledModel, InvalidArg, ServerError, Unavailable, from_code
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.response import InferResponse

log = logging.getLogger("triton_async.python")

# By worker.channel's numbers.
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.DEBUG)

# Bytes of outputs of an inner request from which they are copied on the reader's thread, not on the loop's.
_LARGE_NBYTES = 1 << 16


class Services:
    """Of one worker. `instance`: whose worker it is. `inference`: the server's InferenceService, None without a server.
    `metrics`: metrics.CustomMetrics. `context`: of the load of its model. Methods are called on the reader's thread.
    """

    def __init__(  # noqa: PLR0917
        self, link: Link, instance: ModelInstance, reader: Reader, inference: InferenceService | None, metrics: Any,
        context: Context,
    ) -> None:  # fmt: skip
        self._link = link
        self._instance = instance
        self._reader = reader
        self._inference = inference
        self._metrics = metrics
        self._context = context.copy()
        # What InferenceService.submit gave, by the worker's number.
        self._calls: dict[int, Any] = {}
        self._handles: dict[int, Any] = {}
        self._last_handle = 0
        self._questions = 0
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False

    def close(self) -> None:
        """The worker has gone: nobody waits for its calls, and its metrics go with it."""
        self._closed = True
        calls, self._calls = self._calls, {}
        for cancel in calls.values():
            cancel()
        handles, self._handles = self._handles, {}
        for handle in handles.values():
            handle.drop()
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    # -- inference requests ----------------------------------------------------------------------------------------

    def executes(self, number: int, fields: dict[str, Any]) -> None:
        decoupled, names = fields.pop("decoupled"), fields.pop("output_names")
        call = _WorkerCall(self, number, fields["model_name"], decoupled)
        call.askers = fields.pop("askers")
        if fields.pop("on_thread"):
            call.held = True
        if number in self._calls or len(self._calls) >= WORKER_MAX_CALLS:
            call.refused(Unavailable(f"more than {WORKER_MAX_CALLS} inference requests of one worker at once"))
            return
        if self._inference is None:
            call.refused(Unavailable("there is no server to run inference requests of a model"))
            return
        self._calls[number] = _Unsent()
        call.counts_reads = decoupled
        request = InferRequest(outputs=[RequestedOutput(name) for name in names], **fields)
        self._calls[number] = self._inference.submit(request, call, self._instance)
        if call.over:  # already
            self.over(number)

    def cancels(self, number: int) -> None:
        cancel = self._calls.get(number)
        if cancel is not None:
            cancel()

    def takes(self, number: int, count: int) -> None:
        """The model has taken so many responses of a call that are not final."""
        call = self._calls.get(number)
        if call is not None:
            call.taken(count)

    def over(self, number: int) -> None:
        """A call has its final response. Any thread."""
        self._calls.pop(number, None)

    def send(self, number: int, response: InferResponse | None, error: ServerError | None, final: bool) -> None:
        """Hands a response on to the worker. Any thread."""
        if self._link.failed:
            return
        if error is not None:
            self._link.respond(number, None, None, error, final)
        elif response is not None:
            self._link.respond(number, response.outputs, response.parameters, None, final)
        else:
            self._link.respond(number, None, None, None, final)

    def later(self, function: Callable[[], None]) -> None:
        self._reader.call(function)

    # -- questions -------------------------------------------------------------------------------------------------

    def called(self, number: int, content: dict[str, Any]) -> None:
        """A question; 0: no answer is wanted."""
        operation = content.get("op")
        if operation == "is_cancelled":
            self._answer(number, self._link.is_cancelled(content.get("handle")))
        elif operation in ("load_model", "unload_model", "model_ready"):
            self._ask_server(number, content)
        else:
            try:
                self._answer(number, self._of_metrics(operation, content))
            except Refused as error:
                self._refuse(number, error.code, error.message)
            except (KeyError, TypeError, ValueError, OverflowError):
                self._refuse(number, InvalidArg.code, "a question that makes no sense")

    def _answer(self, number: int, found: object) -> None:
        if number and not self._link.failed:
            self._link.answer(number, False, 0, json.dumps(found))

    def _refuse(self, number: int, code: int, text: str) -> None:
        if number and not self._link.failed:
            self._link.answer(number, True, int(code), text)

    # What may take the server a while, on a thread of its own.
    def _ask_server(self, number: int, content: dict[str, Any]) -> None:
        if self._inference is None:
            self._refuse(number, Unavailable.code, "there is no server that has models")
            return
        if self._questions >= WORKER_MAX_QUESTIONS:
            self._refuse(number, Unavailable.code, f"more than {WORKER_MAX_QUESTIONS} such calls of a worker at once")
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "worker questions")
        self._questions += 1
        self._thread.submit(self._context.run, self._serve, number, content)

    def _serve(self, number: int, content: dict[str, Any]) -> None:
        assert self._inference is not None
        problem: ServerError
        try:
            answer = self._asked_server(self._inference, content)
        except ServerError as error:
            problem = error
        except (KeyError, TypeError, ValueError, binascii.Error):
            problem = InvalidArg("a question that makes no sense")
        except Exception as error:
            log.exception("a question of the worker of instance '%s' could not be answered", self._instance.name)
            problem = from_code(1, type(error).__name__)
        else:
            self._reader.call(lambda: self._done(lambda: self._answer(number, answer)))
            return
        self._reader.call(lambda: self._done(lambda: self._refuse(number, problem.code, problem.message)))

    def _done(self, tell: Callable[[], None]) -> None:
        self._questions -= 1
        tell()

    @staticmethod
    def _asked_server(inference: InferenceService, content: dict[str, Any]) -> object:
        name = _checked(content["name"], str)
        if content["op"] == "model_ready":
            return inference.model_ready(name, _checked(content["version"], int))
        if content["op"] == "unload_model":
            inference.unload_model(name, _checked(content["unload_dependents"], bool))
            return None
        parameters: dict[str, Any] = dict(_checked(content["parameters"], dict))
        for path, text in _checked(content["files"], dict).items():
            parameters[path] = base64.b64decode(_checked(text, str), validate=True)
        inference.load_model(name, parameters)
        return None

    # -- metrics ---------------------------------------------------------------------------------------------------

    def _of_metrics(self, operation: object, content: dict[str, Any]) -> object:
        if operation in ("increment", "set", "observe"):
            getattr(self._handles[content["metric"]], operation)(float(_checked(content["value"], str)))
            return None
        if operation == "value":
            return self._handles[content["metric"]].value()
        if operation == "family":
            name, description = _checked(content["name"], str), _checked(content["description"], str)
            return self._held(self._metrics.family(name, description, _checked(content["kind"], int)))
        if operation == "metric":
            labels = {_checked(key, str): value for key, value in _checked(content["labels"], dict).items()}
            buckets = content["buckets"]
            bounds = None if buckets is None else tuple(float(bound) for bound in buckets)
            return self._held(self._handles[content["family"]].metric(labels, bounds))
        if operation in ("drop_family", "drop_metric"):
            handle = self._handles.pop(content["number"], None)
            if handle is not None:
                handle.drop()
            return None
        raise ValueError(operation)

    def _held(self, handle: Any) -> int:
        if len(self._handles) >= WORKER_MAX_HANDLES:
            handle.drop()
            raise Refused(Unavailable.code, f"a model has {WORKER_MAX_HANDLES} metrics and families, which is the most")
        self._last_handle += 1
        self._handles[self._last_handle] = handle
        return self._last_handle

    # -- the log ---------------------------------------------------------------------------------------------------

    def logs(self, level: int, line: int, file: str, text: str) -> None:
        """An entry of the model's."""
        number = _LEVELS[level] if level < len(_LEVELS) else logging.ERROR
        if log.isEnabledFor(number):
            log.handle(log.makeRecord(log.name, number, file, line, "%s", (text,), None))


class _WorkerCall(InferenceCall):
    """Hands what an inference request of a worker brings back to it. Loop thread."""

    counts_reads = True
    askers: list[InferRequest] | None = None
    held: bool | None = None

    def __init__(self, services: Services, number: int, model: str, decoupled: bool) -> None:
        self.decoupled = decoupled
        self._services = services
        self._number = number
        self._model = model
        self.over = False
        self._waiting = 0  # responses that the reader's thread is to hand on

    def responded(self, response: InferResponse) -> None:
        ends_alone = response.final and self.decoupled and response.error is None and not response.outputs
        self._pass_on(None if ends_alone else response, response.error, response.final)

    def refused(self, error: ServerError) -> None:
        decoupled = isinstance(error, DecoupledModel)
        text = decoupled_refusal(self._model) if decoupled else refusal(self._model, error.message)
        self._pass_on(None, from_code(error.code, text), True)

    def _pass_on(self, response: InferResponse | None, error: ServerError | None, final: bool) -> None:
        if final:
            self.over = True
            self._services.over(self._number)
        nbytes = 0 if response is None else sum(tensor.nbytes for tensor in response.outputs)
        if self._waiting == 0 and nbytes < _LARGE_NBYTES:
            self._services.send(self._number, response, error, final)
            return
        self._waiting += 1
        self._services.later(lambda: self._sent_later(response, error, final))

    def _sent_later(self, response: InferResponse | None, error: ServerError | None, final: bool) -> None:
        self._waiting -= 1
        self._services.send(self._number, response, error, final)


class _Unsent:
    """In place of what `submit` returns, until it does."""

    def __call__(self) -> None:
        pass

    def taken(self, count: int = 1) -> None:
        pass


def _checked(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise TypeError(kind.__name__)
    return value
