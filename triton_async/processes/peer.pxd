# The model process's end of its lane to one front-end process: requests come in, responses go out. Loop thread.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from triton_async.core.servable cimport Servable
from triton_async.core.server cimport InferenceServer
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.processes.lane cimport Lane
from triton_async.processes.requests cimport Asked, Form, Forms
from triton_async.backends.python.isolated.wire cimport Cursor

# Who gets the responses to one request of a front-end.
cdef class RemoteSink(ResponseSink):
    cdef FrontEnd link               # None once the front-end is gone, or the request over
    cdef uint64_t number
    cdef InferRequest request        # None until it is submitted
    cdef bint gone                   # its client has gone before that
    cdef bint final                  # its final response is sent
    cdef bint freed                  # its inputs are free
    cdef int64_t position            # of its final response on the ring, -1: not there any more
    cdef int64_t untaken             # responses that are not final and that the front-end has not passed on
    cdef list waiting                # callables of `on_relief`, or None

# Invariants
#   - a request is in `sinks` from its message until RELEASED is told, by itself or with the final response
#   - requests of a front-end that has ended are cancelled, and what it had on loan is given back
cdef class FrontEnd(Lane):
    cdef InferenceServer server
    cdef dict sinks                  # number -> RemoteSink
    cdef dict origins                # number -> Origin
    cdef dict models                 # Servable.number -> Servable that the front-end may name
    cdef Forms forms                 # of requests to these
    cdef object answering            # calls.Answering
    cdef object on_told              # gets (self, dict): what the front-end tells
    cdef object on_over              # called with (self, what is wrong or None) at its end
    cdef readonly int pid            # 0: not known yet
    cdef readonly object told        # what it has told last of itself, for the metrics

    cdef int _on_request(self, Cursor cursor) except -1
    cdef int _take_request(self, Cursor cursor, const Asked *asked) except -1
    cdef Form _form(self, Cursor cursor, uint32_t nbytes)
    cdef int _cancel(self, RemoteSink sink) except -1
    cdef int _submit(self, RemoteSink sink, InferRequest request, Form form) except -1
    cdef int refuse(self, uint64_t number, object error) except -1
    cdef int respond(self, RemoteSink sink, InferResponse response) except -1
    cdef int64_t _send_error(self, uint64_t number, int flags, int64_t version, object error) except? -9
    cdef int64_t _respond_error(self, RemoteSink sink, InferResponse response, object error) except? -9
    cdef int over(self, RemoteSink sink) except -1
