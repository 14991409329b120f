# Batches that one instance runs before its model is ready.

from libc.stdint cimport int64_t

from triton_async.core.injection cimport Injection
from triton_async.core.model cimport Model
from triton_async.core.scheduler cimport Scheduler
from triton_async.infer.response cimport ResponseSink
from triton_async.infer.signature cimport ModelSignature

# Makes one batch of the `size` requests that come, once they are all there.
#
# Invariants
#   - waiting holds at most `size` requests, QUEUED, in their order; pending == its length
cdef class WholeBatch(Scheduler):
    cdef ModelSignature signature
    cdef Injection injection             # what requests of sequences get beside their own; None for others
    cdef list waiting
    cdef int64_t size
    cdef list lost                       # requests of the batch that the last `take` could not make

# Who hears of one batch.
cdef class WarmUpSink(ResponseSink):
    cdef object future                   # gets None, or the first error, when nothing is awaited any more
    cdef int awaited                     # final responses and releases
    cdef object error

    cdef int _one_less(self) except -1

# The model as its one instance is warmed up: it counts into statistics of its own, which nobody reads. Loop thread.
cdef class WarmUpModel(Model):
    cdef WholeBatch whole
