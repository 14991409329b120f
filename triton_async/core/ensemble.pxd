# An ensemble: a servable whose requests are answered by requests to other servables, the models of its steps.

from libc.stdint cimport int64_t

from triton_async.core.dataflow cimport Dataflow, Step
from triton_async.core.ensemble_run cimport Run
from triton_async.core.servable cimport Servable
from triton_async.infer.request cimport InferRequest

# Loop thread. Nothing waits in it but what `max_inflight_requests` holds back: a request's first steps begin inside
# `submit`, later ones as soon as the tensors are there that they take. Tensors go on as they are, leases of whoever
# made them.
cdef class Ensemble(Servable):
    cdef Dataflow flow
    cdef dict latest                 # name -> Servable: who serves, the server's own
    cdef dict versions               # (name, version) -> Servable
    cdef object trace_step           # what begins the trace of a step's request, with its Servable
    cdef int64_t ahead               # responses of decoupled steps that a request may have open before senders wait

    cdef Servable find(self, Step step)
    # A run that holds the models of the steps that it may need; and has a request that is accepted begin with it.
    cdef Run _prepare(self, InferRequest request)
    cdef int _start(self, InferRequest request, Run run, int64_t now_ns) except -1
