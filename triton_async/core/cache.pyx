"""The response cache, in this process: the least recently used answer goes first."""

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

from triton_async.defines import CACHE_ENTRY_NBYTES, CACHE_KEY_NBYTES

cdef int64_t ENTRY_NBYTES = CACHE_ENTRY_NBYTES
cdef int64_t KEY_NBYTES = CACHE_KEY_NBYTES

cdef enum:
    DIGEST_NBYTES = 16           # chance and ill will both find no two requests of one key
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
    """Up to `budget_nbytes` of answers."""

    def __init__(self, int64_t budget_nbytes):
        self.budget_nbytes = budget_nbytes
        self.entries = OrderedDict()
        self.owners = {}

    def __len__(self):
        return len(self.entries)

    cdef int64_t add_owner(self) except -1:
        self.last_owner += 1
        self.owners[self.last_owner] = set()
        return self.last_owner

    cdef bytes key_of(self, int64_t owner, InferRequest request):
        cdef Tensor tensor
        cdef int64_t total = 0
        if request.n_placements:
            return None
        for tensor in request.slots:
            if tensor is None or tensor.buffer is None:
                continue
            if tensor.buffer.memory_type == MEMORY_GPU:
                return None
            total += tensor.nbytes
        if total > KEY_NBYTES:
            return None
        return _digest(owner, request)

    cdef InferResponse find(self, bytes key, InferRequest request, ModelSignature signature):
        cdef Entry entry = <Entry>self.entries.get(key)
        if entry is None:
            return None
        self.entries.move_to_end(key)
        return InferResponse(request, signature.model_name, signature.model_version, list(entry.outputs),
                             None if entry.parameters is None else dict(entry.parameters))

    cdef int keep(self, int64_t owner, bytes key, InferResponse response) except -1:
        cdef Entry entry
        cdef Tensor tensor
        cdef int64_t nbytes = OVERHEAD_NBYTES
        if response.error is not None or not response.final or owner not in self.owners or key in self.entries:
            return 0
        for tensor in response.outputs:
            if tensor.buffer is not None and tensor.buffer.memory_type == MEMORY_GPU:
                return 0
            nbytes += tensor.nbytes + OUTPUT_OVERHEAD_NBYTES
        if nbytes > min(self.budget_nbytes, ENTRY_NBYTES):
            return 0
        while self.nbytes + nbytes > self.budget_nbytes:
            self._forget(next(iter(self.entries)))
        entry = Entry.__new__(Entry)
        entry.outputs = [_copy(<Tensor>output) for output in response.outputs]
        entry.parameters = None if response.parameters is None else dict(response.parameters)
        entry.owner = owner
        entry.nbytes = nbytes
        self.entries[key] = entry
        (<set>self.owners[owner]).add(key)
        self.nbytes += nbytes
        return 0

    def _forget(self, bytes key):
        cdef Entry entry = <Entry>self.entries.pop(key)
        (<set>self.owners[entry.owner]).discard(key)
        self.nbytes -= entry.nbytes

    cdef int drop_owner(self, int64_t owner) except -1:
        for key in list(self.owners[owner]):
            self._forget(key)
        del self.owners[owner]
        return 0


# Of the version, all inputs by their place in the signature, what the backend sees beside them, and the outputs that
# are asked for.
cdef bytes _digest(int64_t owner, InferRequest request):
    cdef RequestedOutput output
    cdef Tensor tensor
    cdef Head head
    cdef int i
    digest = blake2b(PyBytes_FromStringAndSize(<char *>&owner, sizeof(owner)), digest_size=DIGEST_NBYTES)
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
