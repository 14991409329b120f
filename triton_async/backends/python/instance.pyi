from triton_async.backends.base import ModelInstance
from triton_async.backends.python.local import LocalChannel
from triton_async.backends.python.worker.runner import Runner

class PythonModelInstance(ModelInstance):
    def __init__(
        self, name: str, runner: Runner, channel: LocalChannel, gpu_inputs: bool = False, unbound: bool = False
    ) -> None: ...
