"""The response cache: keys of requests, and the cache in this process. Loop thread."""

from collections import OrderedDict
from hashlib import blake2b

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.tensor cimport Tensor, view_dims
from triton_async.memory.buffer cimport MEMORY_GPU, wrap

from triton_async.core.defines import CACHE_ENTRY_NBYTES, CACHE_KEY_NBYTES

cdef int64_t ENTRY_NBYTES = CACHE_ENTRY_NBYTES
cdef int64_t KEY_NBYTES = CACHE_KEY_NBYTES

cdef enum:
    OVERHEAD_NBYTES = 1024       # of an entry: its objects, and their places in dictionaries
    OUTPUT_OVERHEAD_NBYTES = 256


# What stands before the bytes of an input in a key.
cdef struct Head:
    int64_t index
    int64_t datatype
    int64_t rank
    int64_t nbytes
    int64_t[16] dims


@cython.final
cdef class Entry:
    """One answer. Its tensors lie in memory of their own and are never changed; responses share them."""

    cdef list outputs
    cdef dict parameters
    cdef int64_t owner
    cdef int64_t nbytes


cdef class ResponseCache:
    """Answers of the models whose config asks for it."""

    def __init__(self):
        self.owners = {}

    cdef int64_t add_owner(self, bytes identity) except -1:
        self.last_owner += 1
        self.owners[self.last_owner] = self.last_owner.to_bytes(8, "little")
        return self.last_owner

    cdef bytes key_of(self, int64_t owner, InferRequest request):
        cdef bytes begin = self.owners[owner]
        cdef Tensor tensor
        cdef int64_t total = 0
        if begin is None or request.n_placements:
            return None
        for tensor in request.slots:
            if tensor is None or tensor.buffer is None:
                continue
            if tensor.buffer.memory_type == MEMORY_GPU:
                return None
            total += tensor.nbytes
        if total > KEY_NBYTES:
            return None
        return _digest(begin, request)

    cdef InferResponse find(self, bytes key, InferRequest request, ModelSignature signature):
        return None

    cdef bint ask(self, bytes key, object told) except -1:
        return False

    cdef InferResponse read(self, bytes value, bytes key, InferRequest request, ModelSignature signature):
        return None

    cdef int keep(self, int64_t owner, bytes key, InferResponse response) except -1:
        return 0

    cdef int drop_owner(self, int64_t owner) except -1:
        del self.owners[owner]
        return 0


@cython.final
cdef class LocalCache(ResponseCache):
    """Up to `budget_nbytes` of answers, in this process."""

    def __init__(self, int64_t budget_nbytes):
        ResponseCache.__init__(self)
        self.budget_nbytes = budget_nbytes
        self.entries = OrderedDict()
        self.keys = {}

    def __len__(self):
        return len(self.entries)

    cdef int64_t add_owner(self, bytes identity) except -1:
        cdef int64_t owner = ResponseCache.add_owner(self, identity)
        self.keys[owner] = set()
        return owner

    cdef InferResponse find(self, bytes key, InferRequest request, ModelSignature signature):
        cdef Entry entry = <Entry>self.entries.get(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self.entries.move_to_end(key)
        return InferResponse(request, signature.model_name, signature.model_version, list(entry.outputs),
                             None if entry.parameters is None else dict(entry.parameters))

    cdef int keep(self, int64_t owner, bytes key, InferResponse response) except -1:
        cdef Entry entry
        cdef Tensor tensor
        cdef int64_t nbytes = OVERHEAD_NBYTES
        if not is_kept(response) or owner not in self.keys or key in self.entries:
            return 0
        for tensor in response.outputs:
            nbytes += tensor.nbytes + OUTPUT_OVERHEAD_NBYTES
        if nbytes > min(self.budget_nbytes, ENTRY_NBYTES):
            return 0
        while self.nbytes + nbytes > self.budget_nbytes:
            self._forget(next(iter(self.entries)))
            self.evictions += 1
        entry = Entry.__new__(Entry)
        entry.outputs = [_copy(<Tensor>output) for output in response.outputs]
        entry.parameters = None if response.parameters is None else dict(response.parameters)
        entry.owner = owner
        entry.nbytes = nbytes
        self.entries[key] = entry
        (<set>self.keys[owner]).add(key)
        self.nbytes += nbytes
        return 0

    def _forget(self, bytes key):
        cdef Entry entry = <Entry>self.entries.pop(key)
        (<set>self.keys[entry.owner]).discard(key)
        self.nbytes -= entry.nbytes

    cdef int drop_owner(self, int64_t owner) except -1:
        for key in list(self.keys[owner]):
            self._forget(key)
        del self.keys[owner]
        return ResponseCache.drop_owner(self, owner)


cdef bint is_kept(InferResponse response) noexcept:
    cdef Tensor tensor
    if response.error is not None or not response.final:
        return False
    for tensor in response.outputs:
        if tensor.buffer is not None and tensor.buffer.memory_type == MEMORY_GPU:
            return False
    return True


# Of the version, all inputs by their place in the signature, what the backend sees beside them, and the outputs that
# are asked for.
cdef bytes _digest(bytes begin, InferRequest request):
    cdef RequestedOutput output
    cdef Tensor tensor
    cdef Head head
    cdef int i
    digest = blake2b(begin, digest_size=DIGEST_NBYTES)
    for index, tensor in enumerate(request.slots):
        if tensor is None:
            continue
        head.index = index
        head.datatype = tensor.datatype
        head.rank = tensor.rank
        head.nbytes = tensor.nbytes
        for i in range(tensor.rank):
            head.dims[i] = tensor.dims[i]
        for i in range(tensor.rank, 16):
            head.dims[i] = 0
        digest.update(PyBytes_FromStringAndSize(<char *>&head, sizeof(head)))
        if tensor.nbytes:
            digest.update(tensor)
    if request.parameters:
        digest.update(repr(sorted(request.parameters.items())).encode("utf-8", "surrogatepass"))
    digest.update(b"\0")
    for output in request.outputs:
        digest.update(output.name.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
        if output.parameters:
            digest.update(repr(sorted(output.parameters.items())).encode("utf-8", "surrogatepass"))
            digest.update(b"\0")
    return digest.digest()


cdef Tensor _copy(Tensor tensor):
    cdef bytes content
    if not tensor.nbytes:
        return tensor
    content = PyBytes_FromStringAndSize(tensor.data, tensor.nbytes)
    buffer = wrap(content)
    return view_dims(tensor.name, tensor.datatype, tensor.dims, tensor.rank, tensor.element_count, buffer,
                     <char *>content, tensor.nbytes)
