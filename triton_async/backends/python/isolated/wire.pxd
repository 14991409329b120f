# What the server and a worker say to each other: messages of events, numbers little-endian, nothing aligned. The other
# side is worker/wire.py.
#
# A message is one packet of at most MESSAGE_NBYTES: events, one behind the other. An event begins with its number:
#
# server -> worker
#   START     json                             what to run: see instance.pyx
#   REQUEST   u32 nbytes of the event, u32 where in it its tensors begin, u64 handle, u64 block (0: none), u32 flags,
#             u64 timeout, u64 priority, u8 whether the correlation id is text, u64 or text, text id, long parameters
#             (JSON, "" for none), u16 n, n texts (requested outputs; 0: all), long trace context ("" for none), tensors
#   EXECUTE   u64 batch                        runs the requests since the last one
#   RELIEVED  u64 handle, u32 n                so many more responses may be sent
#   FREED     u32 n, n times u64 offset        response memory that the server does not read any more
#   INNER     u64 call, u8 flags, u64 block, [u32 code, long text], [long parameters, tensors]
#   ANSWER    u64 call, u8 whether it was refused, u32 code, long json (or text)
#   FINALIZE
#   ASK_READY u64 question                     what `is_ready` says
#   SPILLED   u64 block, u64 offset, u64 n     one more event, too long for a message
# worker -> server
#   STARTED   u8 failed, long text             the error, or JSON
#   RESPONSE  u64 handle, u8 flags, [u32 code, long text], [long parameters, tensors]
#   RELEASED  u64 handle, u8 reschedule
#   DONE      u64 batch, u64 ns                execute has returned; when it began to answer, 0: not known
#   FREE      u64 block                        request memory that the worker does not read any more
#   EXEC      u64 call, u8 decoupled (1), on the thread that executes (2), u16 n, n u64 handles of the requests for
#             whose sake (0xFFFF for n: not known), text model, i64 version, u32 flags, u64 timeout, correlation id as
#             above, text id, long parameters, u16 n, n texts, tensors
#   CANCEL    u64 call
#   TAKEN     u64 call, u32 n                  responses that the model has taken
#   CALL      u64 call (0: no answer wanted), long json
#   TOLD_READY u64 question, u8 1, 0 or 2 for an error, long text
#   LOG       u8 level, u32 line, text file, long text
#   FINALIZED
#   SPILLED   u64 offset, u64 n
#
# The responses' memory begins with a u64: the batch that is executed, or was as the last one.
#
# flags: FINAL, HAS_ERROR, HAS_RESPONSE; RELEASES of a final RESPONSE: with it the request is over, as by RELEASED.
# text: u16 n, n bytes of UTF-8. long: the same with u32. tensors: u16 n, then for each
#   text name, u8 datatype, u8 rank, u8 place, rank times i64, u64 nbytes, its bytes (INLINE) or u64 offset (IN_MEMORY)

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.arena cimport ta_lease
from triton_async.memory.slab cimport SlabPool

cdef enum:
    START = 1
    REQUEST = 2
    EXECUTE = 3
    RELIEVED = 4
    FREED = 5
    INNER = 6
    ANSWER = 7
    FINALIZE = 8
    SPILLED = 9
    ASK_READY = 10
    STARTED = 33
    RESPONSE = 34
    RELEASED = 35
    DONE = 36
    FREE = 37
    EXEC = 38
    CANCEL = 39
    CALL = 40
    LOG = 41
    FINALIZED = 42
    TAKEN = 43
    TOLD_READY = 44

cdef enum:
    FINAL = 1
    HAS_ERROR = 2
    HAS_RESPONSE = 4
    RELEASES = 8

cdef enum:
    INLINE = 0
    IN_MEMORY = 1

# One event or message in the making. One thread at a time, with the GIL.
cdef class Writer:
    cdef char *data
    cdef readonly Py_ssize_t size
    cdef Py_ssize_t capacity

    cdef int u8(self, uint8_t value) except -1
    cdef int u32(self, uint32_t value) except -1
    cdef int u64(self, uint64_t value) except -1
    cdef int text(self, str value) except -1       # InvalidArg when it is too long
    cdef int long_text(self, bytes value) except -1
    cdef int counted(self, const char *data, uint32_t nbytes) except -1  # u32 and so many bytes
    cdef int raw(self, const char *data, Py_ssize_t nbytes) except -1
    cdef int _grow(self, Py_ssize_t nbytes) except -1
    # Tensors of host memory. What is larger than INLINE_NBYTES goes to a lease of `memory`, which the caller owns; NULL
    # when none was needed. Unavailable when there is no room.
    cdef ta_lease *tensors(self, list found, SharedMemory memory) except? NULL

# Reads what a worker wrote. Raises WireError for what does not fit, whatever the bytes are.
cdef class Cursor:
    cdef const char *at
    cdef const char *end
    cdef object owner                # keeps the bytes
    cdef int64_t freed_nbytes        # what the entries of `freed` hold
    cdef int64_t large_nbytes        # of tensors in shared memory, so far
    cdef int64_t most_nbytes         # of them that are read, beyond that TakesLong; 0: any
    # Takes (offset, nbytes) of what was lent, on any thread. Where there is one, large tensors of `memory` are not
    # copied: only for who does nothing but send bytes on, for the worker may write to them at any time.
    cdef object lender

    cdef int u8(self) except -1
    cdef uint32_t u32(self) except? 0xFFFFFFFF
    cdef uint64_t u64(self) except? 0xFFFFFFFFFFFFFFFF
    cdef str text(self)
    cdef bytes long_bytes(self)
    cdef str long_text(self)
    # Tensors, copied out of the message and of `memory` into leases of `pool` and only then checked. `freed`: gets the
    # offsets of what was read in `memory`, and is not lent.
    cdef list tensors(self, SharedMemory memory, SlabPool pool, list freed)
    cdef Tensor _tensor(self, SharedMemory memory, SlabPool pool, list freed)
    cdef const char *_take(self, uint64_t nbytes) except NULL

cdef Cursor cursor_over(const char *data, Py_ssize_t nbytes, object owner)
