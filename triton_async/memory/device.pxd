# Device memory on lease: one pool for a GPU.

from libc.stdint cimport int64_t

from triton_async.memory.arena cimport Arena, ta_arena, ta_lease
from triton_async.memory.buffer cimport Buffer

# Any thread. Leases hold what they need of it.
cdef class DevicePool:
    cdef readonly int device
    cdef object devices          # memory.devices.Devices
    cdef Arena arena             # None: the pool has no memory of its own
    cdef ta_arena *c             # the arena's, NULL without one
    cdef dict direct             # address -> bytes of what the driver gave beyond the budget
    cdef bint noted              # that the budget was exceeded

    # At least `nbytes` bytes, aligned to 256, contents undefined; to be given back by `ta_lease_return`, the signature
    # of ta_tensor.release. NULL when the device has no more. Any thread, no GIL; only beyond the budget it takes the
    # GIL and asks the driver, which may wait for the device.
    cdef ta_lease *take(self, int64_t nbytes) noexcept nogil

    # The same as a Buffer of MEMORY_GPU and exactly `nbytes`. MemoryError when the device has no more, InternalError
    # with CUDA's text when the driver fails.
    cdef Buffer lease(self, int64_t nbytes)

    cdef ta_lease *_allocate(self, int64_t nbytes) except NULL
