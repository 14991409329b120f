# Parts of one range of memory on lease (csrc/arena.h), for the pinned and the device pools.

from libc.stdint cimport int64_t, uint64_t

cdef extern from "arena.h" nogil:
    ctypedef void (*ta_give_back)(void *context, uint64_t address) noexcept nogil
    ctypedef struct ta_lease:
        uint64_t address         # aligned to 256 bytes
        int64_t nbytes           # at least what was asked for
    ctypedef struct ta_arena:
        int64_t nbytes
        int64_t leased
        int64_t leased_nbytes
    # At least `nbytes` bytes, NULL when there is no room. Any thread.
    ta_lease *ta_arena_lease(ta_arena *arena, int64_t nbytes)
    # Memory of no arena as a lease; `give_back(context, address)` at its end. NULL: no memory on the host.
    ta_lease *ta_lease_new(uint64_t address, int64_t nbytes, ta_give_back give_back, void *context)
    # Gives it back; signature of ta_tensor.release. Any thread.
    void ta_lease_return(void *lease)

# Owns a range: it goes back when this object is gone and nothing of it is out any more.
cdef class Arena:
    cdef ta_arena *c

# Gives back `address` by a call of the Python object `context`, which is a reference that ends with it; for
# `ta_lease_new`. Any thread, takes the GIL. Whatever the call raises is logged.
cdef void give_back_by_call(void *context, uint64_t address) noexcept nogil
