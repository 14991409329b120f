"""Device memory on lease: cut from one allocation for each GPU, from the driver once that is used up. Any thread."""

import logging

from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint64_t

from triton_async.memory.arena cimport (
    Arena,
    give_back_by_call,
    ta_arena_lease,
    ta_lease,
    ta_lease_new,
    ta_lease_return,
)
from triton_async.memory.buffer cimport MEMORY_GPU, Buffer, foreign

from functools import partial

log = logging.getLogger("triton_async.memory")


cdef class DevicePool:
    """Pool of `nbytes` on one GPU; 0: every lease comes from the driver. `devices`: memory.devices.Devices.

    Raises what `devices.allocate` does. Its memory goes back when the pool is gone and nothing of it is leased.
    """

    def __cinit__(self, devices, int device, int64_t nbytes):
        self.devices = devices
        self.device = device
        self.direct = {}
        if nbytes > 0:
            address = devices.allocate(device, nbytes)
            try:
                self.arena = Arena(address, nbytes, partial(devices.free, device))
            except BaseException:
                devices.free(device, address)
                raise
            self.c = self.arena.c

    cdef ta_lease *take(self, int64_t nbytes) noexcept nogil:
        cdef ta_lease *lease = NULL
        if self.c != NULL:
            lease = ta_arena_lease(self.c, nbytes)
        if lease == NULL:
            with gil:
                lease = _allocate_quietly(self, nbytes)
        return lease

    cdef Buffer lease(self, int64_t nbytes):
        cdef ta_lease *lease = NULL
        if self.c != NULL:
            lease = ta_arena_lease(self.c, nbytes)
        if lease == NULL:
            lease = self._allocate(nbytes)
        return foreign(<char *>lease.address, nbytes, lease, ta_lease_return, MEMORY_GPU, self.device)

    # From the driver, whatever is left in the arena.
    cdef ta_lease *_allocate(self, int64_t nbytes) except NULL:
        cdef uint64_t address
        cdef ta_lease *lease
        if nbytes < 0:
            raise MemoryError(f"no memory for a tensor of {nbytes} bytes")
        if self.arena is not None and not self.noted:
            self.noted = True
            log.warning("the CUDA memory pool of %d bytes on GPU %d is exhausted: allocating from the driver; see "
                        "--cuda-memory-pool-byte-size", self.arena.nbytes, self.device)
        address = self.devices.allocate(self.device, nbytes)
        give_back = self._give_back
        lease = ta_lease_new(address, nbytes, give_back_by_call, <void *>give_back)
        if lease == NULL:
            self.devices.free(self.device, address)
            raise MemoryError
        Py_INCREF(give_back)
        self.direct[address] = nbytes
        return lease

    def _give_back(self, address):
        del self.direct[address]
        self.devices.free(self.device, address)

    def acquire(self, int64_t nbytes):
        """Buffer of `nbytes` on the device; ValueError when negative, MemoryError when there is no more."""
        if nbytes < 0:
            raise ValueError("nbytes must not be negative")
        return self.lease(nbytes)

    @property
    def budget_nbytes(self):
        """Bytes the pool has of its own."""
        return 0 if self.arena is None else self.arena.nbytes

    @property
    def leased(self):
        """Leases out, those of the driver's memory included."""
        return (0 if self.arena is None else self.arena.leased) + len(self.direct)

    @property
    def leased_nbytes(self):
        """Bytes of the budget that are out."""
        return 0 if self.arena is None else self.arena.leased_nbytes

    @property
    def direct_nbytes(self):
        """Bytes out that the driver gave beyond the budget."""
        return sum(self.direct.copy().values())


cdef ta_lease *_allocate_quietly(DevicePool pool, int64_t nbytes) noexcept:
    try:
        return pool._allocate(nbytes)
    except MemoryError:
        return NULL
    except BaseException as error:
        log.error("no memory to lease on GPU %d: %s", pool.device, error)
        return NULL
