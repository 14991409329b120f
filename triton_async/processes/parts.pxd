# Parts of requests and responses as messages have them: parameters, errors, regions, tensors. Loop thread.
#
#   parameters  text: JSON
#   tensor      u16 index in the signature, u8 datatype, u8 rank, u8 place, u64 nbytes, rank times i64, with the index
#               NAMED a text name, with REGION a region; and its bytes: with INLINE themselves, with OURS or YOURS as
#               u64 offset in the memory that the sender or the receiver lends
#   region      text name, u64 offset in it, u64 nbytes
#   text        u32 n, n bytes of UTF-8
#
# What is read is looked at once, in private memory. Bytes of tensors that stay in shared memory may change until they
# are lent no more: whose lengths matter (BYTES) they are copied first.

from libc.stdint cimport int64_t, uint64_t

from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool
from triton_async.processes.lane cimport Held, Lane

# Places of a tensor's bytes.
cdef enum:
    INLINE = 0
    OURS = 1
    YOURS = 2
    REGION = 3

# A tensor but for its name and its bytes.
cdef struct Shape:
    int datatype
    int rank
    int place
    int slot                 # of an input, in its signature; the reader's own
    int64_t count            # of elements
    int64_t nbytes
    int64_t[16] dims

cdef int put_parameters(Writer to, dict parameters) except -1
cdef dict take_parameters(Cursor cursor)
# Of memory that no process of the server but its model process can read: a region that a request names.
cdef int put_region(Writer to, Buffer buffer, const char *data, int64_t nbytes) except -1

# A tensor, its bytes to `data`, which may be `to` itself. `known`: specs of the signature by name; `inlined`: bytes of
# the message's tensors in it, so far; `lends`: gets what has to stay while the other side reads it; `received`: inputs
# that have come from the other side, or None. Unavailable when the shared memory has no room.
cdef int put_tensor(Writer to, Writer data, Lane lane, Tensor tensor, dict known, int64_t *inlined, list lends,
                    list received) except -1
# One whose bytes are in a region that the receiver knows of.
cdef int put_placed(Writer to, Tensor tensor, dict known) except -1

# The name and the shape, without what follows `nbytes`. `specs`: of the signature, or None. WireError for nonsense.
cdef str take_shape(Cursor cursor, Shape *shape, tuple specs)
cdef Tensor view_of(str name, const Shape *shape, Buffer buffer, char *data)
# Over a copy of so many bytes.
cdef Tensor copied(str name, const Shape *shape, const char *source, SlabPool pool)
# Over memory that the other side lends. WireError when it is none.
cdef Tensor lent(str name, const Shape *shape, uint64_t offset, Lane lane, Held held, SlabPool pool, bint writable)
