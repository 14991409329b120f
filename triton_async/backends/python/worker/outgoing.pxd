# Types of worker/outgoing.py, where that is compiled.

cimport cython

cdef class Outgoing:
    cdef object _socket
    cdef readonly object _memory
    cdef object _wait_for
    cdef object _view
    cdef object _lock
    cdef object _allocator
    cdef list _parts
    cdef Py_ssize_t _nbytes
    cdef object _later
    cdef public bint closed

    @cython.locals(nbytes=Py_ssize_t)
    cpdef add(self, event)
    cpdef flush(self, bytes last=*)
    cpdef add_later(self, bytes events, bint at_once)
    cpdef flush_later(self)
    cdef _take_later(self)
    cdef _send(self)

    @cython.locals(parts=list, inlined=Py_ssize_t, nbytes=Py_ssize_t, rank=Py_ssize_t, number=int, shape=tuple)
    cpdef list tensors(self, tensors)
