# cython: annotation_typing=False, wraparound=True
"""Drives one TritonPythonModel: its life, its executions, and everything that it can do wrong, in Triton's words."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import os
import sys
import threading
from types import ModuleType, TracebackType
from typing import Any, Coroutine

from . import api
from .channel import ERROR, INFO, Refused
from .completion import ModelConfig
from .context import Context, refused
from .forks import end, is_fork, watch
from .loader import Loader, Source
from .messages import (
    RELEASE_RESCHEDULE,
    ErrorCode,
    InferenceRequest,
    InferenceResponse,
    TritonError,
    incoming,
)

# Where our own frames are, compiled or not, and those of the loops that run coroutines, which nobody wants to see.
_OWN = (os.path.dirname(__file__), os.path.dirname(asyncio.__file__), "triton_async/backends/python/worker/")


class ModelFailure(Exception):
    """What a model did wrong outside of `execute`; the text is Triton's. `code`: Triton's number."""

    def __init__(self, message: str, code: int = ErrorCode.INTERNAL) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Runner:
    """One instance of a Python model. One thread makes, runs and closes it, `is_ready` apart.

    `source`: of the version, shared by its instances. `search`: where its imports are looked for, see Loader.
    `modules`: of `context` (api.make_modules), where they are made already; `names`: see Loader.
    """

    def __init__(
        self,
        source: Source,
        context: Context,
        search: list[str] | None = None,
        modules: dict[str, ModuleType] | None = None,
        names: dict[str, Any] | None = None,
    ) -> None:
        self.context = context
        self._modules = modules or api.make_modules(context)
        name = f"{context.version}.{source.path.stem.replace('.', '_')}"
        self._loader = Loader(source, self._modules, name, search, names)
        self._request_class: type[InferenceRequest] = self._modules[api.UTILS].InferenceRequest
        watch()
        self._module: ModuleType | None = None
        self._model: Any = None
        self._execute: Any = None
        self._is_ready: Any = None
        # Where coroutines of `execute` run: one at a time on this thread, or, decoupled, side by side on another.
        # On that one, too, once any has left something to be done behind its return.
        self._own_loop: _OwnLoop | None = None
        self._loop: _Loop | None = None

    # -- life ------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Imports `model.py`. ModelFailure."""
        try:
            self._module = self._loader.load()
            self._module.TritonPythonModel  # noqa: B018
        except BaseException as error:
            raise ModelFailure(describe(error)) from error

    def auto_complete(self, config: str) -> dict[str, Any] | None:
        """The config, JSON in and a dict out, as the model completes it, behind `load`; None where it has no
        `auto_complete_config`. ModelFailure.
        """
        assert self._module is not None
        model = self._module.TritonPythonModel
        if not hasattr(model, "auto_complete_config"):
            return None
        try:
            completed = model.auto_complete_config(ModelConfig(config))
        except BaseException as error:
            raise ModelFailure(describe(error)) from error
        if not isinstance(completed, ModelConfig):
            raise ModelFailure(
                f"auto_complete_config function in model '{self.context.model}' must return a valid pb.ModelConfig "
                "object."
            )
        return completed.as_dict()

    def initialize(self, arguments: dict[str, str]) -> None:
        """Makes the model, behind `load`. ModelFailure."""
        assert self._module is not None
        try:
            model_class = self._module.TritonPythonModel
            if not hasattr(model_class, "execute"):
                raise ModelFailure(
                    f"Python model {self._module.__file__} does not implement `execute` method."
                )
            self.context.initializing = True
            self._model = model_class()
            if hasattr(self._model, "initialize"):
                self._model.initialize(arguments)
        except ModelFailure:
            raise
        except BaseException as error:
            raise ModelFailure(describe(error)) from error
        finally:
            self.context.initializing = False
        self._loader.settle()
        self._execute = self._model.execute
        self._is_ready = getattr(self._model, "is_ready", None)
        self.context.executing = True

    def close(self) -> None:
        """Ends the model, at whatever stage. What it raises goes to the log. No request is out."""
        context = self.context
        context.executing = False
        if self._loop is not None:
            self._loop.close()
        if self._own_loop is not None:
            self._own_loop.close()
        if self._model is not None and hasattr(self._model, "finalize"):
            try:
                self._model.finalize()
            except BaseException as error:
                context.channel.log(
                    INFO, f"finalize of model '{context.instance}' failed: {describe(error)}", "model.py", _line(error)
                )
        self._execute = self._is_ready = self._model = self._module = self._loop = None
        self._loader.close()
        for module in self._modules.values():
            vars(module).clear()
        self._modules.clear()

    @property
    def asks_ready(self) -> bool:
        """Whether the model says itself if it is ready."""
        return self._is_ready is not None

    def is_ready(self) -> bool:
        """What the model says. Blocks; any thread. ModelFailure for anything but a bool."""
        asked = self._is_ready
        if asked is None:
            return True
        try:
            answer = asked()
            if inspect.iscoroutine(answer):
                answer = asyncio.run(answer)
        except BaseException as error:
            raise ModelFailure(describe(error)) from error
        if type(answer) is not bool:
            raise ModelFailure(f"is_ready() must return a boolean value, found type '{type(answer)}'.")
        return answer

    # -- executions ------------------------------------------------------------------------------------------------

    def execute(self, sources: list[Any]) -> None:
        """Runs one batch: RequestSources, in a list that is emptied. Raises nothing: what goes wrong is answered.

        Returns when the instance may have the next batch. By then, in default mode, everything is answered or in the
        hands of a response sender.
        """
        request_class = self._request_class
        requests = [incoming(request_class, source) for source in sources]
        try:
            result = self._execute(requests)
            if inspect.iscoroutine(result):
                if self.context.decoupled:
                    self._run_beside(result, sources)
                    return
                if self._loop is not None:
                    result = self._loop.run(result).result()
                else:
                    if self._own_loop is None:
                        self._own_loop = _OwnLoop()
                    result = self._own_loop.run(result)
                    if self._own_loop.has_tasks() or _some_wait(result, sources):
                        self._go_beside()
        except BaseException as error:
            if is_fork():
                end(error)
            self.context.channel.returned()
            self._fail(sources, error)
            return
        if is_fork():
            end(None)
        del requests
        self.context.channel.returned()
        if self.context.decoupled:
            self._end_decoupled(sources, result)
            return
        problem = _wrong_list(result, sources)
        if problem is not None:
            self._fail_all(sources, problem)
            return
        responses = [None] * len(sources) if result is None else result[::-1]
        result = None
        self._answer(sources, responses)

    # `responses`: last first, in a list that nobody else has. What the model has given up needs no copy, so each is
    # given up here before it is sent.
    def _answer(self, sources: list[Any], responses: list[Any]) -> None:
        channel = self.context.channel
        for source in sources:
            if responses[-1] is None:
                responses.pop()
                self._without_response(source)
                continue
            if source.sent:
                responses.pop()
            else:
                source.sent, source.finished = 1, True
                try:
                    channel.respond_last(source, responses)
                except Refused as error:
                    channel.respond(source, refused(error), True)
            channel.release(source)
        sources.clear()

    # `execute` gave None in place of a response: it may have used the sender, or still has it.
    def _without_response(self, source: Any) -> None:
        channel = self.context.channel
        if source.release_flags == RELEASE_RESCHEDULE and (self.context.decoupled or not source.sent):
            try:
                channel.release(source, True)
            except Refused as error:
                channel.log(ERROR, error.message, "runner.py", 0)
                self._respond_error(source, error.message, error.code)
                channel.release(source)
            return
        if source.finished:
            channel.release(source)

    def _end_decoupled(self, sources: list[Any], result: Any) -> None:
        problem = None
        if result is not None:
            problem = (
                f"Failed to process the request(s) for model '{self.context.instance}', message: Python model "
                f"'{self.context.instance}' is using the decoupled mode and the execute function must return None."
            )
        channel = self.context.channel
        for source in sources:
            if problem is not None and not source.finished:
                self._respond_error(source, problem)
            if source.finished:
                channel.release(source)
            elif source.release_flags == RELEASE_RESCHEDULE:
                self._without_response(source)
        sources.clear()

    # What a coroutine has left in its loop goes on, while this thread has other things to do.
    def _go_beside(self) -> None:
        assert self._own_loop is not None
        self._loop = _Loop(self.context.instance, self._own_loop.loop)
        self._own_loop = None

    # -- asynchronous executions of decoupled models ---------------------------------------------------------------

    # The coroutine has the list of requests that `execute` was given, so that list is left as it is.
    def _run_beside(self, coroutine: Coroutine[Any, Any, Any], sources: list[Any]) -> None:
        if self._loop is None:
            self._loop = _Loop(self.context.instance)
        own = list(sources)
        sources.clear()
        self._loop.run(self._finish(coroutine, own))

    async def _finish(self, coroutine: Coroutine[Any, Any, Any], sources: list[Any]) -> None:
        try:
            result = await coroutine
        except BaseException as error:
            self._fail(sources, error)
            if not isinstance(error, Exception):
                raise
            return
        self._end_decoupled(sources, result)

    # -- failures --------------------------------------------------------------------------------------------------

    def _fail(self, sources: list[Any], error: BaseException) -> None:
        text = describe(error)
        self.context.channel.log(
            ERROR, f"execute of model '{self.context.instance}' failed: {text}", "model.py", _line(error)
        )
        error.__traceback__ = None  # it holds the frames, and they the requests
        self._fail_all(sources, text)

    def _fail_all(self, sources: list[Any], text: str) -> None:
        message = f"Failed to process the request(s) for model '{self.context.instance}', message: {text}"
        for source in sources:
            if not source.finished and (self.context.decoupled or not source.sent):
                self._respond_error(source, message)
            self.context.channel.release(source)
        sources.clear()

    def _respond_error(self, source: Any, message: str, code: int = ErrorCode.INTERNAL) -> None:
        source.sent, source.finished = source.sent + 1, True
        self.context.channel.respond(source, InferenceResponse([], TritonError(message, ErrorCode(code))), True)


class _OwnLoop:
    """The event loop of a model whose `execute` is asynchronous, and that is not decoupled: runs where it is called."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._tasks: list[asyncio.Task[Any]] = []
        self.loop.set_task_factory(self._make)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """What it returns, or raises."""
        self._tasks.clear()
        return self.loop.run_until_complete(coroutine)

    def has_tasks(self) -> bool:
        """Whether tasks of the last `run` have not come to their end."""
        return any(not task.done() for task in self._tasks)

    def close(self) -> None:
        self.loop.close()

    def _make(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **more)
        self._tasks.append(task)
        return task


class _Loop:
    """The event loop of a model whose `execute` is asynchronous, on a thread of its own: calls of a decoupled one
    overlap there. `loop`: one that has been begun elsewhere.
    """

    def __init__(self, instance: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.new_event_loop()
        self._loop.set_task_factory(None)
        self._thread = threading.Thread(target=self._main, name=f"async {instance}", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Lets what still runs end, then the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _some_wait(result: Any, sources: list[Any]) -> bool:
    """Whether requests are to be answered behind the return of `execute`, in default mode."""
    if isinstance(result, list) and None not in result:
        return False
    return any(not source.finished and source.release_flags != RELEASE_RESCHEDULE for source in sources)


def _wrong_list(responses: Any, sources: list[Any]) -> str | None:
    """What is wrong with what `execute` returned, in default mode."""
    if responses is None:  # every request has a sender
        return None
    if not isinstance(responses, list):
        return f"Expected a list in the execute return, found type '{type(responses)}'."
    if len(responses) != len(sources):
        return (
            "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
            f"InferenceRequest(s) size is:{len(sources)}, and InferenceResponse(s) size is:{len(responses)}\n"
        )
    for response, source in zip(responses, sources):
        if source.release_flags == RELEASE_RESCHEDULE and response is not None:
            return (
                "Expected a None object in the execute function return list for reschduled request, found type "
                f"'{type(response)}'."
            )
        if response is not None and not isinstance(response, InferenceResponse):
            return (
                "Expected an 'InferenceResponse' object in the execute function return list, found type "
                f"'{type(response)}'."
            )
    return None


def unanswered(decoupled: bool, model: str, instance: str, sent: int) -> str:
    """What a request is told that the model has dropped without a final response. `sent`: responses it had."""
    if decoupled or sent:
        return f"model '{model}' dropped a request and its response sender without a final response"
    return (
        f"Failed to process the request(s) for model '{instance}', message: execute returned None for a "
        "request whose response sender was not used"
    )


def describe(error: BaseException) -> str:
    """An exception as Triton shows it to clients: type, text, and the model's frames, the innermost first."""
    try:
        text = str(error) or "<EMPTY MESSAGE>"
    except Exception:
        text = "<MESSAGE UNAVAILABLE>"
    lines = [f"{type(error).__name__}: {text}"]
    frames = []
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_OWN):
            frames.append(f"  {code.co_filename}({trace.tb_lineno}): {code.co_name}\n")
        trace = trace.tb_next
    if frames:
        lines.append("\n\nAt:\n" + "".join(reversed(frames)))
    return "".join(lines)


def _line(error: BaseException) -> int:
    """The line of the model's own frame, the outermost that is not ours; 0 for none."""
    trace = error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_OWN):
            return trace.tb_lineno
        trace = trace.tb_next
    return 0


def line_buffered() -> None:
    """Has what models print come out line by line, whatever standard output is."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)
