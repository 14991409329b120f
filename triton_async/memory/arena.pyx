"""A range of memory of which parts are lent, given back as a whole at the end. Any thread."""

import logging

from cpython.ref cimport Py_DECREF, Py_INCREF

from triton_async.defines import DEVICE_ALIGNMENT

cdef extern from "arena.h" nogil:
    enum: TA_ARENA_ALIGNMENT
    ta_arena *ta_arena_new(uint64_t base, int64_t nbytes, ta_give_back give_back, void *context)
    void ta_arena_close(ta_arena *arena)

log = logging.getLogger("triton_async.memory")

assert DEVICE_ALIGNMENT == TA_ARENA_ALIGNMENT


cdef class Arena:
    """`nbytes` bytes at `address`; `free(address)` is called at the end, on whatever thread that comes."""

    def __cinit__(self, uint64_t address, int64_t nbytes, free):
        self.c = ta_arena_new(address, nbytes, give_back_by_call, <void *>free)
        if self.c == NULL:
            raise MemoryError
        Py_INCREF(free)

    def __dealloc__(self):
        if self.c != NULL:
            ta_arena_close(self.c)

    @property
    def nbytes(self):
        return self.c.nbytes

    @property
    def leased(self):
        """Leases out."""
        return self.c.leased

    @property
    def leased_nbytes(self):
        return self.c.leased_nbytes


cdef void give_back_by_call(void *context, uint64_t address) noexcept nogil:
    with gil:
        _call(<object>context, address)
        Py_DECREF(<object>context)


cdef int _call(free, uint64_t address) noexcept:
    try:
        free(address)
    except BaseException:
        log.exception("memory could not be given back")
    return 0
