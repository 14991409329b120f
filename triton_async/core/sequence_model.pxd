# A model version whose scheduler is the sequence batcher.

from libc.stdint cimport int64_t

from triton_async.core.model cimport Model
from triton_async.core.sequences cimport SequenceBatcher
from triton_async.infer.batch cimport Batch
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse

# Loop thread. Unlike others it delivers a batch before the instance gets its next one: that needs the states that the
# responses bring.
#
# A step of a sequence is over, and the next may begin, when its response, the release of its inputs and its execution
# are; of a decoupled model, as in Triton, when the execution is.
cdef class SequenceModel(Model):
    cdef readonly SequenceBatcher sequences
    cdef bint ran_here                   # the last turn ran something on the loop thread

    cdef bint _step_over(self, InferRequest request, int64_t now_ns) except -1
    # A request was released to be run once more, and its execution is over.
    cdef int _resume(self, InferRequest request, int64_t now_ns) except -1
    # The response without the states that it brings, or the error about them.
    cdef InferResponse _without_states(self, InferResponse response)
