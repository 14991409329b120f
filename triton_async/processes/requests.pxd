# Requests and responses as messages. Loop thread.
#
#   REQUEST   Asked, text id, parameters, u16 n, n outputs, tensors; with ASKED_TEXT the correlation id as text in front
#             of the id, with ASKED_FIELDS the headers that it came with behind all (u16 n, n times two texts)
#   RESPONSE  u64 request, u8 flags, u64 number of what it lends (0: nothing), i64 model version, text model ("": that
#             which was asked), then with HAS_ERROR u8 class, text message; else parameters, tensors
#
#   output      text name, u8 flags, u64 classes, parameters, with OUTPUT_REGION a region
#   parameters  text: JSON, "" for none
#   tensors     u16 n, then for each u16 index in the signature (NAMED: text name behind it), u8 datatype, u8 rank, u8
#               place, rank times i64, u64 nbytes, and INLINE: the bytes; OURS, YOURS: u64 offset in the memory that the
#               sender, the receiver lends; REGION: a region
#   region      text name, u64 offset in it, u64 nbytes
#   text        u32 n, n bytes of UTF-8
#
# What is read is looked at once, in private memory. Bytes of tensors that stay in shared memory may change until they
# are lent no more: whose lengths matter (BYTES) they are copied first.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.regions cimport RegionRegistry
from triton_async.memory.slab cimport SlabPool
from triton_async.processes.lane cimport Lane

cdef packed struct Asked:
    uint8_t kind             # REQUEST
    uint64_t number
    uint64_t model           # Servable.number of the model process
    int64_t version          # as asked
    uint64_t priority
    uint64_t timeout_us
    int64_t received_ns      # CLOCK_MONOTONIC, which all processes of a machine share
    int64_t end_by_ns
    uint64_t origin          # 0: none
    uint64_t sequence_id
    int32_t flags            # RequestFlag bits
    uint8_t how

cdef enum:                   # Asked.how
    ASKED_BINARY = 1
    ASKED_TEXT = 2
    ASKED_FIELDS = 4

cdef enum:
    FINAL = 1
    HAS_ERROR = 2
    RELEASES = 4             # with it the request is over, as by RELEASED
    REFUSED = 8

# Where `flags` of a RESPONSE are.
cdef enum:
    FLAGS_AT = 9

# The event of a request; a number under which what it lends is lent, or 0. `signature`: of the model as this side knows
# it. Unavailable when the shared memory has no room.
cdef int write_request(Writer to, Lane lane, InferRequest request, uint64_t number, uint64_t model, uint64_t origin,
                       ModelSignature signature, list lends) except -1
# The request, of a cursor behind `asked`. `signature`: of the model that it names by number, or None. ServerError for a
# region that is not there any more; WireError for nonsense.
cdef InferRequest read_request(Cursor cursor, Lane lane, const Asked *asked, str model_name, ModelSignature signature,
                               RegionRegistry regions, SlabPool pool)
cdef int read_head(Cursor cursor, Asked *asked) except -1

# The event of a response. `lends`: gets what has to stay while the other side reads it, under a number that the caller
# puts behind the flags.
cdef int write_response(Writer to, Lane lane, InferResponse response, uint64_t number, ModelSignature signature,
                        list lends) except -1
cdef int write_error(Writer to, uint64_t number, uint8_t flags, str model_name, int64_t model_version,
                     object error) except -1
# The response, of a cursor behind the number of the request and `flags`.
cdef InferResponse read_response(Cursor cursor, Lane lane, uint8_t flags, InferRequest request,
                                 ModelSignature signature, SlabPool pool)
