# The server's end of one worker: its socket, the memory shared with it, the requests that it has.

from libc.stdint cimport int64_t, uint64_t

from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.infer.batch cimport Batch
from triton_async.infer.factory cimport ResponseFactory
from triton_async.memory.arena cimport ta_lease
from triton_async.memory.slab cimport SlabPool

# Any thread with the GIL, which is its lock: nothing here gives it up between looking and doing. Events are read on the
# reader's thread alone.
#
#   OPEN --fail--> FAILED
#
# Invariants
#   - every request of a batch that `submit` took is in `factories` until its final response and its release are posted,
#     once each; `fail` posts what is missing
#   - a batch is in `batches` until it is given to `LinkOwner.batch_done`, once
#   - nothing that the worker says makes `receive` raise or block, or has it keep memory that grows: what does not fit
#     ends the link
cdef class Link:
    cdef object owner                  # LinkOwner, None once FAILED
    cdef object socket                 # None once FAILED
    cdef int fd
    cdef readonly SharedMemory requests
    cdef readonly SharedMemory responses
    cdef SlabPool pool
    cdef object reader
    cdef dict factories                # handle -> ResponseFactory
    cdef dict ahead                    # handle -> responses that are not final and that the worker was not relieved of
    cdef dict batches                  # number -> Batch, in the order in which they were submitted
    cdef dict blocks                   # number -> address of a ta_lease of `requests`
    cdef uint64_t last_number          # of handles, batches and blocks
    cdef object outbox                 # messages that the socket did not take yet
    cdef int64_t outbox_nbytes
    cdef list freed                    # offsets in `responses` that the worker may use again
    cdef int64_t freed_nbytes          # what they hold
    cdef bytearray inbox
    cdef bint deaf                     # nothing of the worker is looked at any more

    # Hands over a closed batch, a factory for each request. True: the worker has it, or some requests of it. False: all
    # were answered, with errors.
    cdef bint submit(self, Batch batch, list factories) except -1
    cdef int _request(self, Writer event, ResponseFactory factory) except -1
    # Adds an event to a message, and sends that first if it has no room.
    cdef int _add(self, Writer message, Writer event) except -1
    cdef int _send(self, Writer message) except -1
    cdef int _send_freed(self, Writer message) except -1
    cdef uint64_t _keep(self, ta_lease *lease) except 0
    cdef int _event(self, Cursor cursor) except -1
    cdef int _on_response(self, Cursor cursor) except -1
    cdef int _count_ahead(self, uint64_t handle, ResponseFactory factory) except -1
    cdef int _on_released(self, Cursor cursor) except -1
    cdef int _on_done(self, Cursor cursor) except -1
    cdef int _on_free(self, Cursor cursor) except -1
    cdef int _on_spilled(self, Cursor cursor) except -1
    cdef ResponseFactory _factory_of(self, Cursor cursor)
    cdef int _forget_if_over(self, uint64_t handle, ResponseFactory factory) except -1
