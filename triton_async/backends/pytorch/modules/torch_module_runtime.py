"""Runs PyTorch models that are Python code (`runtime: "model.py"`): the `model.py` of the `pytorch` backend.

In the server, a worker or an environment of the model's own: Python 3.8, PyTorch 2 and Triton's API for models.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from typing import Any

# Files of a version, the first that is there: Python code with a torch.nn.Module, or TorchScript.
_FILES = ("model.py", "model.pt")


class TritonPythonModel:
    """One instance, on its thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Makes the module: of Python code with the weights beside it, or of TorchScript."""
        import torch
        import triton_python_backend_utils as pb_utils

        self._torch: Any = torch
        self._api: Any = pb_utils
        config = json.loads(args["model_config"])
        name = args["model_name"]
        self._instance = args["model_instance_name"]
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._batches = config["max_batch_size"] > 0
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self._set_threads(parameters)
        options = self._compile_options(parameters)
        path = self._path(config.get("default_model_filename", ""))
        if path.endswith(".py"):
            module = self._made(path)
        else:
            pb_utils.Logger.log_info(f"Loading '{name}' as TorchScript")
            module = self._torch.jit.load(path, map_location="cpu")
        # KIND_MODEL: where the model puts itself.
        device = {"GPU": f"cuda:{args['model_instance_device_id']}", "CPU": "cpu"}.get(args["model_instance_kind"])
        if device is not None:
            module.to(device)
        module.eval()
        first = next(module.parameters(), None)
        self._device = device if device is not None else "cpu" if first is None else first.device
        if options is not None and not options.get("disable") and path.endswith(".py"):
            module = self._torch.compile(module, **options)
        self._module = module

    def execute(self, requests: list[Any]) -> list[Any]:
        """Requests of a batch that fit together are one call of the module, which answers or fails them alone."""
        with self._torch.inference_mode():
            given = [[self._input(request, name) for name in self._inputs] for request in requests]
            calls: dict[Any, list[int]] = {}
            for place, tensors in enumerate(given):
                shapes = _shapes(tensors)
                alone = not self._batches or not any(shape is not None for shape in shapes)
                calls.setdefault(place if alone else shapes, []).append(place)
            answers: list[Any] = [None] * len(given)
            for places in calls.values():
                try:
                    found = self._call([given[place] for place in places])
                except Exception as error:
                    if len(calls) == 1:  # shown in full
                        raise
                    found = [self._failed(error)] * len(places)
                for place, answer in zip(places, found):
                    answers[place] = answer
            return answers

    def finalize(self) -> None:
        """Lets go of the module."""
        self._module = None

    def _input(self, request: Any, name: str) -> Any:
        tensor = self._api.get_input_tensor_by_name(request, name)
        if tensor is None:  # optional, and not given
            return None
        return self._torch.from_dlpack(tensor.to_dlpack()).to(self._device)

    # The answers of requests that fit together.
    def _call(self, given: list[list[Any]]) -> list[Any]:
        if len(given) == 1:
            return [self._response(self._results(given[0]))]
        rows = [next(len(tensor) for tensor in tensors if tensor is not None) for tensors in given]
        results = self._results([None if parts[0] is None else self._torch.cat(parts) for parts in zip(*given)])
        return [self._response(parts) for parts in zip(*(self._torch.split(result, rows) for result in results))]

    def _failed(self, error: Exception) -> Any:
        text = f"{type(error).__name__}: {error}"
        self._api.Logger.log_error(f"execute of model '{self._instance}' failed: {text}")
        message = f"Failed to process the request(s) for model '{self._instance}', message: {text}"
        return self._api.InferenceResponse([], self._api.TritonError(message))

    def _results(self, tensors: list[Any]) -> list[Any]:
        found = self._module(*tensors)
        results = list(found) if isinstance(found, (tuple, list)) else [found]
        if len(results) < len(self._outputs):
            raise self._api.TritonModelException(
                f"the model returned {len(results)} results, its config has {len(self._outputs)} outputs"
            )
        return results[: len(self._outputs)]

    def _response(self, results: Iterable[Any]) -> Any:
        tensors = [
            self._api.Tensor.from_dlpack(name, result.detach().contiguous())
            for name, result in zip(self._outputs, results)
        ]
        return self._api.InferenceResponse(output_tensors=tensors)

    def _path(self, named: str) -> str:
        directory = self._api.get_model_dir()
        files = [named, *_FILES] if named else [*_FILES]
        for file in files:
            path = os.path.join(directory, file)
            if os.path.exists(path):
                return path
        raise self._api.TritonModelException(f"No model found in version {os.path.basename(directory)}: {files}")

    # An import by the instance, as its files were when the version was loaded.
    def _made(self, path: str) -> Any:
        name = os.path.basename(path)[: -len(".py")]
        if "." in name:
            raise self._api.TritonModelException(f"'{name}.py' can not be imported: there is a dot in its name")
        module = __import__(f"{__package__}.{name}", fromlist=["*"])
        base = self._torch.nn.Module
        values = [value for _, value in sorted(vars(module).items()) if isinstance(value, type)]
        found = [value for value in values if issubclass(value, base)]
        own = [value for value in found if value.__module__ == module.__name__]
        if not found:
            raise self._api.TritonModelException("Cannot find a subclass of torch.nn.Module")
        made = (own or found)[0]()
        weights = path[: -len(".py")] + ".pt"
        if os.path.exists(weights):
            made.load_state_dict(self._torch.load(weights, map_location="cpu", weights_only=True))
        return made

    def _set_threads(self, parameters: dict[str, str]) -> None:
        torch = self._torch
        if "NUM_THREADS" in parameters:
            # As in triton_async.backends.pytorch.calls.set_threads, which says why.
            kept = vars(torch)
            with kept.setdefault("_lock_of_set_threads", threading.Lock()):
                first = kept.setdefault("_first_of_set_threads", torch.get_num_threads())
                torch.set_num_threads(int(parameters["NUM_THREADS"]))
                other = threading.Thread(target=torch.set_num_threads, args=(first,))
                other.start()
                other.join()
        count = int(parameters.get("NUM_INTEROP_THREADS", "0"))
        if count and count != torch.get_num_interop_threads():
            try:
                torch.set_num_interop_threads(count)
            except RuntimeError:
                self._api.Logger.log_warn(
                    f"NUM_INTEROP_THREADS={count} has no effect: PyTorch's threads are there already, and their number "
                    "is one in a process. A process of the model's own (ISOLATION) has its own"
                )

    def _compile_options(self, parameters: dict[str, str]) -> dict[str, Any] | None:
        text = parameters.get("TORCH_COMPILE_OPTIONAL_PARAMETERS")
        if text is None:
            return None
        options: dict[str, Any] = json.loads(text)
        if "model" in options:
            raise self._api.TritonModelException("'model' is not an optional parameter for 'torch.compile'")
        return options


def _shapes(tensors: list[Any]) -> tuple[Any, ...]:
    """What requests that fit together have in common: the inputs, and their shapes but for the rows."""
    return tuple(None if tensor is None else tuple(tensor.shape[1:]) for tensor in tensors)
