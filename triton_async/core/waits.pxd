# Who waits for whom: requests that are made for the sake of others, and the check that none waits for itself.

from triton_async.core.servable cimport Servable
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport ResponseSink

# The sink of a request that is made for the sake of other requests, whose `inner` it is among while it is asked: a
# model's request to another (core.inner), a step of an ensemble (core.ensemble). Loop thread.
cdef class Asking(ResponseSink):
    cdef readonly InferRequest request   # None once it is over
    cdef Servable target                 # who has the request, or is to have it
    cdef int depth                       # of requests of models within requests of models; 0: no model asks
    cdef bint held                       # the execution of its askers waits for it, not what runs beside

    # The request has begun already, on an instance that was borrowed (core.lending).
    cdef int begun(self) except -1
    # Nobody waits for it any more.
    cdef bint unwanted(self) noexcept

    # The nodes one of which has to end before the request is answered; None when it is on its way.
    cdef list alternatives(self)

# How deep the sink of a request stands in others' requests.
cdef int depth_of(InferRequest request) noexcept

# All executions that one of the nodes is, or waits for through whatever requests.
cdef list executions_behind(list alternatives)

# The executions one of which has to end before one of the instances, which are a model's, can begin another; None when
# one is free.
cdef list holders_among(list instances)

# Whether one of the nodes comes to its end. None: there is nothing to wait for.
cdef bint goes_on(list alternatives) except -1
