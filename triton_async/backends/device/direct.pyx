"""Device memory straight from the driver, for instances that have no pool. Any thread."""

import logging

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t

from triton_async.memory.buffer cimport MEMORY_GPU, foreign

log = logging.getLogger("triton_async.device")


class DirectMemory:
    """What leases from a DevicePool look like, one allocation each."""

    def __init__(self, devices, device):
        self.devices = devices
        self.device = device

    def acquire(self, int64_t nbytes):
        """Buffer of device memory. MemoryError, InternalError."""
        cdef size_t address = self.devices.allocate(self.device, nbytes)
        owner = (self.devices, self.device, address)
        Py_INCREF(owner)
        return foreign(<char *>address, nbytes, <void *>owner, _free_direct, MEMORY_GPU, self.device)


cdef void _free_direct(void *owner) noexcept nogil:
    with gil:
        _free_allocation(<tuple>owner)


cdef int _free_allocation(tuple owner) noexcept:
    devices, device, address = owner
    Py_DECREF(owner)
    try:
        devices.free(device, address)
    except Exception as error:
        log.warning("device memory could not be freed: %s", error)
    return 0
