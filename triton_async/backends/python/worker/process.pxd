# Types of worker/process.py, where that is compiled. Read-only is what tests of misbehaving models reach for.

cimport cython

from triton_async.backends.python.worker.outgoing cimport Outgoing
from triton_async.backends.python.worker.wire cimport ReceivedRequest

cdef class WorkerChannel:
    cdef readonly object _socket
    cdef object _requests
    cdef object _responses
    cdef readonly Outgoing _out
    cdef object _changed
    cdef bint _reading
    cdef int _waiting
    cdef list _received
    cdef dict _calls
    cdef dict _answers
    cdef int _helping
    cdef object _number
    cdef object _number_lock
    cdef dict _credited
    cdef set _cancelled
    cdef readonly object batches
    cdef public object context
    cdef public object start
    cdef public object ask_model
    cdef public bint finalizes
    cdef public list output_names
    cdef public tuple state_names
    cdef public bint reschedules
    cdef public object credits
    cdef public bint holding
    cdef public object gone
    cdef object _answered_ns
    cdef object _thread

    cdef _read(self)

    @cython.locals(at=Py_ssize_t, end=Py_ssize_t)
    cdef _dispatch(self, bytes data)

    @cython.locals(kind=int)
    cdef Py_ssize_t _event(self, bytes data, Py_ssize_t at) except -1
    cpdef respond(self, ReceivedRequest request, response, bint final)
    cpdef respond_last(self, ReceivedRequest request, list responses)

    @cython.locals(body=list)
    cdef _respond(self, ReceivedRequest request, response, int flags)

    @cython.locals(found=dict)
    cdef list _outputs(self, ReceivedRequest request, response)
    cpdef release(self, ReceivedRequest request, bint reschedule=*)
    cdef _over(self, ReceivedRequest request)
    cpdef returned(self)
    cpdef begin(self, batch)
    cpdef done(self, batch)
    cpdef give_back(self, block)
    cpdef dropped(self, handle, sent, bint finished)
