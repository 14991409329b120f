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
#
# When it is loaded anew, sequences that have begun go on where they are, to their ends: the new model hands their
# requests on (`follow`). The old one is held meanwhile, so that its draining waits, for SEQUENCE_LINGER_S at the most.
cdef class SequenceModel(Model):
    cdef readonly SequenceBatcher sequences
    cdef bint ran_here                   # the last turn ran something on the loop thread
    cdef SequenceModel before            # of an earlier load, for sequences that began there; None when it has none
    cdef readonly bint lingers           # followed by a later load, and held, while sequences that began here go on
    cdef bint followed                   # ever
    cdef object end_timer                # ends lingering
    # Instance that is to go once its sequences are over -> what to call when it has gone (core.changing).
    cdef dict retiring

    # The model of an earlier load that has the sequence of this request, or None. One that starts anew leaves it.
    cdef SequenceModel _earlier(self, InferRequest request)
    cdef int _depart(self) except -1

    # Has those of `instances` leave that are retiring.
    cdef int _let_go_of(self, list instances) except -1

    cdef bint _step_over(self, InferRequest request, int64_t now_ns) except -1
    # A request was released to be run once more, and its execution is over.
    cdef int _resume(self, InferRequest request, int64_t now_ns) except -1
    # The response without the states that it brings, or the error about them.
    cdef InferResponse _without_states(self, InferResponse response)
