# The server's end of one worker: what it says, and the requests that it has.

from libc.stdint cimport int64_t, uint64_t

from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.outbound cimport Outbound
from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.infer.batch cimport Batch
from triton_async.infer.factory cimport ResponseFactory
from triton_async.memory.slab cimport SlabPool

# Any thread with the GIL, which is its lock: nothing here gives it up between looking and doing. Messages are read by
# one thread at a time: the reader's, or, once the worker takes batches and as long as they are short, the loop's, which
# then has the answers without being woken by another thread.
#
#   OPEN --fail--> FAILED
#
#   reader's --follow_loop, and whenever nothing is left to read--> loop's
#   loop's --a message that takes long, the worker's end, claim--> reader's
#
# Invariants
#   - its descriptor is watched by whose turn it is, or by nobody while something is `left`
#   - every request of a batch that `submit` took is in `factories` until its final response and its release are posted,
#     once each; `fail` posts what is missing
#   - a batch is in `batches` until it is given to `LinkOwner.batch_done`, once
#   - nothing that the worker says makes `receive` raise or block, or has it keep memory that grows: what does not fit
#     ends the link
cdef class Link(Outbound):
    cdef readonly SharedMemory responses
    cdef SlabPool pool
    cdef dict factories                # handle -> ResponseFactory
    cdef dict ahead                    # handle -> responses that are not final and that the worker was not relieved of
    cdef dict batches                  # number -> Batch, in the order in which they were submitted
    cdef bytearray inbox
    cdef public bint reschedules       # the model may have requests run once more
    cdef bint deaf                     # nothing of the worker is looked at any more
    cdef bint stopped                  # nobody watches it any more
    cdef object watcher                # backends.base.Watcher, once the loop may read; else None
    cdef bint on_loop                  # it is the loop's turn
    cdef bint busy                     # a message is being dealt with on the loop
    cdef object left                   # what the loop has left to the reader's thread: message or None, what is wrong

    # Hands over a closed batch, a factory for each request. True: the worker has it, or some requests of it. False: all
    # were answered, with errors.
    cdef bint submit(self, Batch batch, list factories) except -1
    cdef uint64_t _request(self, Writer event, ResponseFactory factory) except? 0
    cdef int _leave(self, bytes message, str problem) except -1
    cdef int _read_here(self) except -1
    cdef bint _is_short(self, int kind) noexcept
    cdef int _read_all(self) except -1
    cdef int _event(self, Cursor cursor) except -1
    cdef int _on_response(self, Cursor cursor) except -1
    cdef int _check_ahead(self, uint64_t handle) except -1
    cdef int _count_ahead(self, uint64_t handle, ResponseFactory factory) except -1
    cdef int _on_released(self, Cursor cursor) except -1
    cdef int _on_done(self, Cursor cursor) except -1
    cdef int _on_free(self, Cursor cursor) except -1
    cdef int _on_spilled(self, Cursor cursor) except -1
    cdef ResponseFactory _factory_of(self, Cursor cursor)
    cdef list _requests_of(self, list handles)
    cdef int _forget_if_over(self, uint64_t handle, ResponseFactory factory) except -1
