# An instance of a Python model that runs in the server process.

from triton_async.backends.base cimport RequestInstance
from triton_async.backends.python.local cimport LocalChannel
from triton_async.infer.batch cimport ta_batch
from triton_async.infer.event cimport ta_message

# Instance thread, but for `is_ready`, and for `submit` where it is `unbound`. Holds the GIL while the model runs.
#
# Events that its thread posts behind the end of `execute`, for the answers that this returned, are held until the GIL
# is free again: the loop, woken for the first, would wait for the GIL. All others go up at once.
cdef class PythonModelInstance(RequestInstance):
    cdef object runner               # worker.runner.Runner
    cdef LocalChannel channel
    cdef unsigned long thread        # that runs a batch
    cdef ta_message *first           # held events, oldest first; NULL: none
    cdef ta_message *last
