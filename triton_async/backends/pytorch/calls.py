"""A program bound to a config: values of a batch in, results in the order of the config out. Instance thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from triton_async import datatypes
from triton_async.backends.pytorch.naming import bind_inputs, bind_outputs, missing_result
from triton_async.backends.pytorch.options import Options
from triton_async.backends.pytorch.program import Port, Program
from triton_async.backends.pytorch.tensors import BYTES, Dtypes, failure
from triton_async.config.model_config import ModelConfig, TensorConfig
from triton_async.errors import InternalError, InvalidArg, ServerError


class Binding:
    """Which argument each input of a config is, and which result each output. Immutable; any thread.

    ServerError, in Triton's words, when config and program do not fit. `warnings`: lines for the log.
    """

    def __init__(self, config: ModelConfig, program: Program, dtypes: Dtypes) -> None:
        self.inputs = config.engine_inputs
        self.outputs = config.engine_outputs
        self.warnings: list[str] = []
        self.dictionary = program.takes_dictionary
        names = [io.name for io in self.inputs]
        self.arguments = bind_inputs(config.name, names, program, self.warnings)
        self.results = bind_outputs(config.name, [io.name for io in self.outputs], program, self.warnings)
        batching = config.max_batch_size > 0
        for io, place in zip(self.inputs, self.arguments, strict=True):
            port = Port("", strings=False) if self.dictionary else program.arguments[place]
            _check_tensor(config.name, io, "input", batching, dtypes)
            if (io.datatype == BYTES) is not port.strings:
                raise InvalidArg(
                    f"unable to load model '{config.name}', input '{io.name}' is "
                    f"{datatypes.to_config_name(io.datatype)} and its argument is a "
                    f"{'List[str]' if port.strings else 'Tensor'}"
                )
            if io.optional and not self.dictionary:
                raise InvalidArg(
                    f"unable to load model '{config.name}', input '{io.name}' is optional: the model needs it"
                )
        for output in self.outputs:
            _check_tensor(config.name, output, "output", batching, dtypes)
        # Inputs that are handed over as copies, and outputs that are copied before the next run.
        self.private = tuple(program.writes(0 if self.dictionary else place) for place in self.arguments)
        self.lent = tuple(program.lends(place) for place in self.results)
        # What a scalar stands for: as many dimensions of 1 as the config gives it.
        self.ones = tuple(
            len(io.model_dims) if not batching and all(dim == 1 for dim in io.model_dims) else 0
            for io in self.outputs
        )

    def arrange(self, values: Sequence[Any]) -> list[Any]:
        """Arguments of a call, for values in the order of the config; None where a request leaves an input out."""
        if self.dictionary:
            return [{io.name: value for io, value in zip(self.inputs, values, strict=True) if value is not None}]
        arguments = [None] * len(values)
        for place, value in zip(self.arguments, values, strict=True):
            arguments[place] = value
        return arguments

    def pick(self, found: list[Any] | dict[str, Any]) -> list[Any]:
        """Results in the order of the config's outputs. InvalidArg when one was not returned."""
        if isinstance(found, dict):
            for io in self.outputs:
                if io.name not in found:
                    raise InvalidArg(
                        f"The output {io.name} in the model configuration is none of the dictionary that the model "
                        f"returned, which has: {', '.join(map(str, found))}"
                    )
            return [found[io.name] for io in self.outputs]
        for io, place in zip(self.outputs, self.results, strict=True):
            if place >= len(found):
                raise missing_result(io.name, len(found))
        return [found[place] for place in self.results]


def set_threads(torch: Any, count: int) -> None:
    """PyTorch's number of threads for the calling thread, and for no other one."""
    # PyTorch notes it for every thread that has not called it yet, also where that has been given a number itself. So
    # this one calls it first, and those to come are given back what they had: the number before the first such call,
    # as this thread's is its own from then on. Lock and number are the process's: modules that Python models run have
    # no other way to them.
    kept = vars(torch)
    with kept.setdefault("_lock_of_set_threads", threading.Lock()):
        first = kept.setdefault("_first_of_set_threads", torch.get_num_threads())
        torch.set_num_threads(count)
        other = threading.Thread(target=torch.set_num_threads, args=(first,))
        other.start()
        other.join()


class Caller:
    """Runs a bound program under a model's options. Instance thread, of which it sets PyTorch's thread count.

    A context manager, see `__enter__`.
    """

    def __init__(self, torch: Any, program: Program, binding: Binding, options: Options, threads: int) -> None:
        self.binding = binding
        self._torch = torch
        self._program: Program | None = program
        self._optimized = options.optimized
        # Used again for each run, one at a time.
        self._guard = torch.inference_mode() if options.inference_mode else torch.no_grad()
        self._lasting = getattr(torch, "AcceleratorError", ())
        #: A CUDA error was raised that lasts until the process ends.
        self.broken = False
        # Each thread that calls PyTorch has a pool of its own, of this size.
        set_threads(torch, options.intra_op_threads or threads)

    def __enter__(self) -> Caller:
        """A batch is converted and run under it; what PyTorch raises comes out as InternalError."""
        if not self._optimized:
            self._torch._C._set_graph_executor_optimize(False)  # of this thread
        self._guard.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._guard.__exit__(kind, error, traceback)
        if not self._optimized:
            self._torch._C._set_graph_executor_optimize(True)
        if isinstance(error, Exception) and not isinstance(error, ServerError):  # whatever a model does
            self.broken = self.broken or isinstance(error, self._lasting)
            raise failure(error) from None

    def call(self, values: Sequence[Any]) -> list[Any]:
        """Results in the order of the config, for values in its order."""
        if self._program is None:
            raise InternalError("the instance is closed")
        return self.binding.pick(self._program.call(self.binding.arrange(values)))

    def close(self) -> None:
        """Drops the program."""
        self._program = None


def _check_tensor(model: str, io: TensorConfig, what: str, batching: bool, dtypes: Dtypes) -> None:
    if io.datatype != BYTES:
        if dtypes.to_torch(io.datatype) is None:
            raise InternalError(
                f"unsupported datatype {datatypes.to_config_name(io.datatype)} for {what} '{io.name}' for model "
                f"'{model}'"
            )
    elif len(io.model_dims) + batching > 1:
        raise InternalError(
            f"Triton only supports 1 dimensional List of String as {what} for '{io.name}' for model '{model}'"
        )
