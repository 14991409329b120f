# Memory that tensors stand on, and who gives it back.
#
# A lease is a reference: whoever holds a Buffer keeps its bytes alive and unchanged; the last reference
# returns them to where they came from (a slab pool, an engine, a Python object). The GIL is needed to take or
# drop a reference, not to read the bytes.

from libc.stdint cimport int64_t

cdef enum MemoryType:        # values of TRITONSERVER_MemoryType
    MEMORY_CPU = 0
    MEMORY_CPU_PINNED = 1
    MEMORY_GPU = 2

ctypedef void (*release_t)(void *owner) noexcept nogil

# Never made by itself: by `wrap`, `foreign` or a pool.
cdef class Buffer:
    cdef char *data              # first byte; on the device for MEMORY_GPU
    cdef readonly int64_t nbytes
    cdef readonly int memory_type
    cdef readonly int device_id
    cdef bint readonly
    cdef void *owner             # what `release` gives back
    cdef release_t release

# Leases the bytes of an object with the buffer protocol (bytes, bytearray, memoryview, ndarray) for reading.
# The object is kept and, where its type supports it, locked against resizing. BufferError when not contiguous.
cpdef Buffer wrap(object source)

# Takes over `nbytes` bytes at `data` that `release(owner)` gives back; `release` may run on any thread.
cdef Buffer foreign(char *data, int64_t nbytes, void *owner, release_t release, int memory_type, int device_id)

# Live Buffer objects, for the leak tests.
cpdef int64_t live_buffers()
