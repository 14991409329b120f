# A model instance whose model runs in a worker process.

from libc.stdint cimport int64_t

from triton_async.backends.base cimport RequestInstance
from triton_async.backends.python.isolated.link cimport Link
from triton_async.infer.batch cimport Batch, ta_batch

# The instance's thread hands batches to the worker (`submit`), or the loop's where that takes no time; the loop's or
# the reader's hands them back (`batch_done`). The GIL is the lock of what they touch.
cdef class WorkerInstance(RequestInstance):
    cdef readonly object supervisor    # of the worker; Supervisor
    cdef Link link                     # to the worker that takes batches; None while there is none
    cdef int64_t began_ns              # when the worker began with its oldest batch, as far as known
    cdef int64_t mean_ns               # moving average of how long it takes for one
    cdef object changed                # Condition: a batch is done, or the worker came or went
    cdef bint waited_for               # somebody waits for that
    cdef int64_t limit_ns              # of one execution; 0: none
    cdef object timer                  # that looks at the limits; None: no batch was out when it last did
    cdef int64_t looked_ns             # when it last did
    cdef object reader

    cdef int _submit(self, ta_batch *c) noexcept
    cdef bint _has_room(self) noexcept
    cdef int _refuse(self, list factories, error) except -1
