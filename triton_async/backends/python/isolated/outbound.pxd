# What the server says to one worker, and what it has lent it.

from libc.stdint cimport int64_t, uint64_t

from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.wire cimport Writer
from triton_async.memory.arena cimport ta_lease

# The half of a Link that writes. Any thread with the GIL, which is its lock.
#
# Invariants
#   - messages go out in the order in which they were made; what the socket did not take is in `outbox`, and the
#     reader's thread sends it
cdef class Outbound:
    cdef object owner                  # LinkOwner, None once FAILED
    cdef object socket                 # None once FAILED
    cdef int fd
    cdef object reader
    cdef readonly SharedMemory requests
    cdef dict blocks                   # number -> address of a ta_lease of `requests`
    cdef uint64_t last_number          # of handles, batches and blocks
    cdef object outbox                 # messages that the socket did not take yet
    cdef int64_t outbox_nbytes
    cdef list freed                    # offsets in the responses' memory that the worker may use again
    cdef int64_t freed_nbytes          # what they hold

    # Whether what is sent goes out at once.
    cdef bint flows(self) noexcept
    # Has the reader hear of what is its own to hear. Reader's thread.
    cdef int _watch(self) except -1
    # Adds an event to a message, and sends that first if it has no room.
    cdef int _add(self, Writer message, Writer event) except -1
    cdef int _send(self, Writer message) except -1
    cdef int _send_freed(self, Writer message) except -1
    cdef uint64_t _keep(self, ta_lease *lease) except 0
