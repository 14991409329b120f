# An instance of a Python model that runs in the server process.

from triton_async.backends.base cimport RequestInstance
from triton_async.backends.python.local cimport LocalChannel
from triton_async.infer.batch cimport ta_batch

# Instance thread, but for `is_ready`. Holds the GIL while the model runs.
cdef class PythonModelInstance(RequestInstance):
    cdef object runner               # worker.runner.Runner
    cdef object context              # worker.context.Context
    cdef LocalChannel channel
