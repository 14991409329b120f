# Instances lent to threads of models that ask: an inner request runs where its asker waits for it, and the loop hears
# of it later. And to threads of the program that the server is in.

from libc.stdint cimport int64_t

from triton_async.core.instances cimport Borrower, Instance
from triton_async.core.model cimport Model
from triton_async.core.waits cimport Asking
from triton_async.infer.batch cimport Batch
from triton_async.infer.event cimport ta_message
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport ResponseSink

# One execution, of one request, on an idle instance that its model has OFFERED (core.instances), by the thread that
# waits for the response. The engine is that thread's meanwhile; of core's state it changes nothing: the loop is told
# of it afterwards, by the loan itself and then by the three events of any execution, in one chain. From there on all is
# as if the loop had begun it: it is counted, answered and released as every request.
#
# It is told in the middle where the loop has to know of it: when the execution asks other models in the ordinary way,
# for then somebody may wait for it, and when it ends without an answer, for then its thread waits for the loop.
#
# Made and run by the thread of `host`, with the GIL, which its fields belong to.
cdef class Loan(Borrower):
    cdef Model model
    cdef Instance instance           # the one that is lent
    cdef Instance host               # whose thread runs it, for an execution of its own; None: a program's does
    cdef InferRequest request
    cdef ResponseSink sink           # of the request
    cdef Asking asking               # the same, of a request of a model; else None
    cdef Batch batch
    cdef ta_message *first           # what the loop is still to be told, the oldest first; NULL: nothing
    cdef ta_message *last
    cdef bint told                   # the loop knows of it
    cdef bint void                   # it came to nothing: the loop need only look at the instance again

    # Runs the request. The final response, or None where there is none yet: the loop was told then.
    cdef object run(self)
    cdef int _execute(self) except -1
    cdef int _split(self) except -1
    cdef int _keep(self, ta_message *message) noexcept
    cdef int _keep_all(self, ta_message *oldest) noexcept
    # Whether the loop waits for the instance.
    cdef bint _give_back(self) noexcept
    cdef object _answer(self)
    # Behind the execution: has the loop hear of all.
    cdef int _report(self, object response, bint wanted) except -1

# A loan of an instance of `model` to the thread that runs the executions of `host`, or None. `sink`: of `request`,
# which the model takes as it is (ModelSignature.validate). `bound`: that thread is in the middle of what other Python
# code must not be run in.
cdef Loan borrow(Model model, Instance host, InferRequest request, ResponseSink sink, bint bound)

# The same for a thread that does not wait: where the model is trusted to be as short with such a request as the loop's
# thread runs it itself (core.inline).
cdef Loan borrow_briefly(Model model, InferRequest request, ResponseSink sink)
