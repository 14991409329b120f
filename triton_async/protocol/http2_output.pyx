"""Header fields in nghttp2's form, and the buffer in which frames are gathered. Sans-IO; one thread."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from triton_async.protocol.nghttp2 cimport (
    NGHTTP2_NV_FLAG_NO_COPY_NAME, NGHTTP2_NV_FLAG_NO_COPY_VALUE, NGHTTP2_NV_FLAG_NO_INDEX, NGHTTP2_NV_FLAG_NONE,
)

# What the buffer starts with and shrinks back to: the small frames of a busy loop turn.
cdef size_t _CAPACITY = 1 << 16


cdef class HeaderBlock:
    """`fields`: pairs of bytes, names in lower case. `constant`: the block is never freed."""

    def __cinit__(self, fields, bint constant=False):
        cdef size_t i
        cdef bytes name
        cdef bytes value
        # What changes from call to call must not push the constant fields out of the client's table.
        cdef int flags = NGHTTP2_NV_FLAG_NONE if not constant else (
            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE)
        self.keep = [(bytes(name), bytes(value)) for name, value in fields]
        self.count = len(self.keep)
        self.fields = <nghttp2_nv *>malloc(max(self.count, <size_t>1) * sizeof(nghttp2_nv))
        if self.fields == NULL:
            raise MemoryError
        for i in range(self.count):
            name, value = self.keep[i]
            self.fields[i].name = <unsigned char *>PyBytes_AS_STRING(name)
            self.fields[i].namelen = PyBytes_GET_SIZE(name)
            self.fields[i].value = <unsigned char *>PyBytes_AS_STRING(value)
            self.fields[i].valuelen = PyBytes_GET_SIZE(value)
            self.fields[i].flags = <unsigned char>(
                flags | (NGHTTP2_NV_FLAG_NO_INDEX if name == b"grpc-message" else 0))

    def __dealloc__(self):
        free(self.fields)


cdef class OutBuffer:
    """Empty between two `take`s."""

    def __cinit__(self):
        self.parts = []

    def __dealloc__(self):
        free(self.data)

    cdef int append(self, const void *data, size_t nbytes) except -1:
        cdef size_t capacity = max(self.capacity, _CAPACITY)
        cdef char *grown
        if nbytes > self.capacity - self.nbytes:
            while nbytes > capacity - self.nbytes:
                capacity *= 2
            grown = <char *>realloc(self.data, capacity)
            if grown == NULL:
                raise MemoryError
            self.data = grown
            self.capacity = capacity
        memcpy(self.data + self.nbytes, data, nbytes)
        self.nbytes += nbytes
        self.total_nbytes += nbytes
        return 0

    cdef int append_view(self, object part, Py_ssize_t start, Py_ssize_t nbytes) except -1:
        self._close_part()
        self.parts.append(PyMemoryView_FromObject(part)[start:start + nbytes])
        self.total_nbytes += nbytes
        return 0

    def _close_part(self):
        if self.nbytes:
            self.parts.append(PyBytes_FromStringAndSize(self.data, self.nbytes))
            self.nbytes = 0

    cdef list take(self):
        cdef list parts
        self._close_part()
        parts = self.parts
        self.parts = []
        self.total_nbytes = 0
        if self.capacity > _CAPACITY:
            free(self.data)
            self.data = NULL
            self.capacity = 0
        return parts
