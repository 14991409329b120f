# Types of worker/wire.py, where that is compiled.

cimport cython

cdef class ReceivedTensor:
    cdef readonly object datatype
    cdef readonly tuple shape
    cdef int _number
    cdef bytes _data
    cdef Py_ssize_t _offset
    cdef Py_ssize_t _nbytes
    cdef object _block

cdef class ReceivedRequest:
    cdef object _channel
    cdef bytes _data
    cdef Py_ssize_t _start
    cdef Py_ssize_t _tensors_at
    cdef object _block
    cdef tuple _fields
    cdef readonly object handle
    cdef public object flags
    cdef public object timeout
    cdef public object release_flags
    cdef public object sent
    cdef public bint finished
    cdef public bint released
    cdef public object credits

    @cython.locals(data=bytes, at=Py_ssize_t)
    cpdef list wanted(self)

    @cython.locals(data=bytes, at=Py_ssize_t)
    cpdef tuple _look(self)
    cpdef over(self)


@cython.locals(count=Py_ssize_t, end=Py_ssize_t, head=bytes, known=tuple, found=list)
cpdef tuple read_tensors(bytes data, Py_ssize_t at, object block)

cpdef tuple text(bytes data, Py_ssize_t at)
cpdef tuple long_text(bytes data, Py_ssize_t at)
cpdef bytes pack_name(value)
cpdef bytes inline_head(name, number, tuple shape, nbytes)
