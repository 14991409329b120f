"""Memory leases: a Buffer keeps bytes alive, and its last reference gives them back."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc

cdef int64_t _live = 0


@cython.freelist(128)
cdef class Buffer:
    """Bytes on loan. Exports the buffer protocol (1-D, unsigned bytes) for host memory."""

    def __cinit__(self):
        global _live
        _live += 1

    def __dealloc__(self):
        global _live
        _live -= 1
        if self.release != NULL:
            self.release(self.owner)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.memory_type == MEMORY_GPU:
            raise BufferError("device memory has no host view")
        PyBuffer_FillInfo(view, self, self.data, self.nbytes, self.readonly, flags)

    def __len__(self):
        return self.nbytes

    @property
    def address(self):
        """Of the first byte; on the device for GPU memory."""
        return <uintptr_t>self.data


# A wrapped Python object: its Py_buffer is what has to be given back.
cdef void _release_view(void *owner) noexcept nogil:
    with gil:
        PyBuffer_Release(<Py_buffer *>owner)
    free(owner)


cpdef Buffer wrap(object source):
    cdef Py_buffer *view = <Py_buffer *>malloc(sizeof(Py_buffer))
    cdef Buffer buffer
    if view == NULL:
        raise MemoryError
    try:
        PyObject_GetBuffer(source, view, PyBUF_SIMPLE)
    except BaseException:
        free(view)
        raise
    buffer = Buffer.__new__(Buffer)
    buffer.data = <char *>view.buf
    buffer.nbytes = view.len
    buffer.readonly = True
    buffer.memory_type = MEMORY_CPU
    buffer.owner = view
    buffer.release = _release_view
    return buffer


cdef Buffer foreign(char *data, int64_t nbytes, void *owner, release_t release, int memory_type, int device_id):
    cdef Buffer buffer = Buffer.__new__(Buffer)
    buffer.data = data
    buffer.nbytes = nbytes
    buffer.memory_type = memory_type
    buffer.device_id = device_id
    buffer.owner = owner
    buffer.release = release
    return buffer


def leave_out(int64_t count):
    """So many leases that are there belong to models, as weights do, and not to requests: `live_buffers` leaves them
    out. Negative: they are about to go."""
    global _live
    _live -= count


cpdef int64_t live_buffers():
    return _live
