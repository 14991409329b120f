"""Signatures of loaded model versions, and validation of requests against them (Triton's InferRequest rules)."""

from libc.string cimport memcpy

from triton_async.datatypes cimport DT_BYTES, elements, nbytes, to_name
from triton_async.infer.framing cimport ta_bytes_skip
from triton_async.infer.plan cimport BatchPlan
from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor
from triton_async.memory.buffer cimport MEMORY_GPU

from triton_async.defines import MAX_TENSORS_PER_REQUEST, NOGIL_NBYTES
from triton_async.errors import InvalidArg

cdef int64_t LONG = NOGIL_NBYTES

_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to "
    "each input shape. If you want to specify the full shape including the batch dim in your input dims config, "
    "try setting max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def format_dims(dims):
    """Shape as Triton prints it: `[1,16]`."""
    return "[" + ",".join(map(str, dims)) + "]"


cdef class TensorSpec:
    """One input or output of a model. `dims` and `reshape` are without the batch dimension."""

    def __init__(self, str name, int datatype, dims, reshape=None, bint optional=False, labels=(),
                 bint any_rank=False, bint injected=False):
        cdef int i
        if len(dims) >= TA_MAX_RANK or (reshape is not None and len(reshape) >= TA_MAX_RANK):
            raise InvalidArg(f"tensor '{name}' has too many dimensions, at most {TA_MAX_RANK - 1} are supported")
        self.name = name
        self.datatype = datatype
        self.dims = tuple(dims)
        self.reshape = None if reshape is None else tuple(reshape)
        self.optional = optional
        self.any_rank = any_rank
        self.injected = injected
        self.labels = tuple(labels)
        self.rank = len(self.dims)
        for i in range(self.rank):
            self.c_dims[i] = self.dims[i]

    cdef int engine_dims(self, const int64_t *dims, int rank, bint batching, int64_t *out) noexcept:
        return _reshape(self.dims, self.reshape, dims, rank, batching, out)

    cdef int client_dims(self, const int64_t *dims, int rank, bint batching, int64_t *out) noexcept:
        cdef int first = 1 if batching else 0
        cdef int i
        if self.reshape is None:
            memcpy(out, dims, rank * sizeof(int64_t))
            return rank
        if rank - first != len(self.reshape):
            return _as_client_dims(self, dims, rank, first, out)
        for i in range(first, rank):
            if self.reshape[i - first] not in (-1, dims[i]):
                return _as_client_dims(self, dims, rank, first, out)
        return _reshape(self.reshape, self.dims, dims, rank, batching, out)


# Of an engine that gives another shape than `reshape` says: many models give the client's, or one of as many elements
# in place of dims that are all known, and Triton does not look. -1 for any other.
cdef int _as_client_dims(TensorSpec spec, const int64_t *dims, int rank, int first, int64_t *out) noexcept:
    cdef int i
    if rank < first:
        return -1
    if first:
        out[0] = dims[0]
    if -1 not in spec.dims:
        memcpy(&out[first], spec.c_dims, spec.rank * sizeof(int64_t))
        return first + spec.rank if elements(out, first + spec.rank) == elements(dims, rank) else -1
    if rank != first + spec.rank:
        return -1
    for i in range(first, rank):
        if spec.c_dims[i - first] not in (-1, dims[i]):
            return -1
        out[i] = dims[i]
    return rank


# Variable dims keep their order under a reshape, so the n-th -1 of `to` takes the value of the n-th -1 of `source`.
cdef int _reshape(tuple source, tuple to, const int64_t *dims, int rank, bint batching, int64_t *out) noexcept:
    cdef int first = 1 if batching else 0
    cdef int at = first
    cdef int i
    if to is None:
        memcpy(out, dims, rank * sizeof(int64_t))
        return rank
    if batching:
        out[0] = dims[0]
    for i in range(len(to)):
        if to[i] != -1:
            out[first + i] = to[i]
            continue
        while at < rank and source[at - first] != -1:
            at += 1
        if at >= rank:
            return -1
        out[first + i] = dims[at]
        at += 1
    return first + len(to)


cdef class ModelSignature:
    """What one loaded model version takes and gives. `inputs`, `outputs`: sequences of TensorSpec. `injected_inputs`,
    `injected_outputs`: what the server brings to the model and takes from it, in its order; no client's. `plan`: where
    requests may differ in shape, a BatchPlan of all of them, which it takes over."""

    def __init__(self, str model_name, int64_t model_version, inputs, outputs, int64_t max_batch_size=0,
                 bint decoupled=False, injected_inputs=(), injected_outputs=(), BatchPlan plan=None):
        cdef TensorSpec spec
        self.model_name = model_name
        self.model_version = model_version
        self.client_inputs = tuple(inputs)
        self.client_outputs = tuple(outputs)
        self.inputs = self.client_inputs + tuple(injected_inputs)
        self.outputs = self.client_outputs + tuple(injected_outputs)
        for spec in (*injected_inputs, *injected_outputs):
            spec.injected = True
        self.max_batch_size = max_batch_size
        self.decoupled = decoupled
        self.input_by_name = {}
        self.output_by_name = {}
        for index, spec in enumerate(self.inputs):
            spec.index = index
            self.input_by_name[spec.name] = spec
            self.required_inputs += not (spec.optional or spec.injected)
        for index, spec in enumerate(self.outputs):
            spec.index = index
            self.output_by_name[spec.name] = spec
        self.plan = plan
        if plan is not None:
            plan.belongs_to(model_name, [spec.name for spec in self.inputs], [spec.name for spec in self.outputs])

    def labels(self, str output):
        """Labels of an output, () when it has none."""
        cdef TensorSpec spec = self.output_by_name.get(output)
        return () if spec is None else spec.labels

    cpdef int validate(self, InferRequest request) except -1:
        return 0 if request.fits is self else self._validate(request)

    def validated(self, InferRequest request):
        """`validate` on any thread, for a request that nobody else has. It is returned, and `validate` finds it done.
        """
        self._validate(request)
        request.fits = self
        return request

    cdef int _validate(self, InferRequest request) except -1:
        cdef uint64_t wanted = self._wanted(request)
        cdef list slots = self._slots(request)
        cdef int64_t rows = self._rows(request)
        cdef TensorSpec spec
        cdef Tensor tensor
        cdef Py_ssize_t i
        for tensor in request.inputs:
            spec = self.input_by_name[tensor.name]
            self._check(request, spec, tensor)
        # The last one first, as Triton names it.
        for i in range(len(request.inputs) - 1, -1, -1):
            tensor = <Tensor>request.inputs[i]
            if tensor.datatype == DT_BYTES and (tensor.buffer is None or tensor.buffer.memory_type != MEMORY_GPU):
                self.check_bytes(request, tensor)
        request.wanted = wanted
        request.n_placements = _placements(request) if request.outputs else 0
        request.slots = slots
        request.rows = rows
        if self.plan is not None and self.plan.pads:
            self.plan.check(request)
        return 0

    cdef uint64_t _wanted(self, InferRequest request) except? 0:
        cdef RequestedOutput output
        cdef TensorSpec spec
        cdef uint64_t bits = 0
        cdef uint64_t bit
        cdef set seen = None
        if not request.outputs:
            return <uint64_t>0xFFFFFFFFFFFFFFFF
        if len(request.outputs) > MAX_TENSORS_PER_REQUEST:
            raise InvalidArg(f"{request.log_prefix()}request asks for {len(request.outputs)} outputs, "
                             f"at most {MAX_TENSORS_PER_REQUEST} are supported")
        if len(request.outputs) > 1:
            seen = set()
            for output in request.outputs:
                if output.name in seen:
                    raise InvalidArg(f"{request.log_prefix()}output '{output.name}' already exists in request")
                seen.add(output.name)
        for output in request.outputs:
            spec = self.output_by_name.get(output.name)
            if spec is None or spec.index >= len(self.client_outputs):
                raise InvalidArg(f"unexpected inference output '{output.name}' for model '{self.model_name}'")
            if spec.injected and output.region is not None:
                raise InvalidArg(f"output '{output.name}' of model '{self.model_name}' is a state of its sequences, "
                                 "which can not be placed in shared memory")
            bit = <uint64_t>1 << (spec.index if spec.index < 63 else 63)
            bits |= bit
        return bits

    cdef list _slots(self, InferRequest request):
        cdef list slots = [None] * len(self.inputs)
        cdef Tensor tensor
        cdef TensorSpec spec
        cdef int count = len(request.inputs)
        cdef set seen = None
        if count > 1:
            seen = set()
            for tensor in request.inputs:
                if tensor.name in seen:
                    raise InvalidArg(f"{request.log_prefix()}input '{tensor.name}' already exists in request")
                seen.add(tensor.name)
        if count > len(self.client_inputs) or count < self.required_inputs:
            raise InvalidArg(self._count_message(request))
        for tensor in request.inputs:
            spec = self.input_by_name.get(tensor.name)
            if spec is None or spec.injected:
                raise InvalidArg(f"unexpected inference input '{tensor.name}' for model '{self.model_name}'")
            slots[spec.index] = tensor
        if count < len(self.client_inputs):
            # As many inputs as are required, but an optional one in the place of a required one.
            for spec in self.client_inputs:
                if not spec.optional and slots[spec.index] is None:
                    raise InvalidArg(self._count_message(request))
        return slots

    def _count_message(self, InferRequest request):
        count = len(request.inputs)
        total = len(self.client_inputs)
        given = {tensor.name for tensor in request.inputs}
        got = ",".join([f"'{tensor.name}'" for tensor in request.inputs[:MAX_TENSORS_PER_REQUEST]])
        missing = [f"'{s.name}'" for s in self.client_inputs if not s.optional and s.name not in given]
        # With nothing missing Triton prints the closing bracket alone, and clients compare whole messages.
        shown = f"[{','.join(missing)}]" if missing else "]"
        expected = (
            f"expected {total} inputs but got {count} inputs" if self.required_inputs == total
            else f"expected number of inputs between {self.required_inputs} and {total} but got {count} inputs"
        )
        return (
            f"{request.log_prefix()}{expected} for model '{self.model_name}'. Got input(s) [{got}], but missing "
            f"required input(s) {shown}. Please provide all required input(s)."
        )

    cdef int64_t _rows(self, InferRequest request) except -1:
        cdef Tensor tensor
        cdef int64_t rows = -1
        if self.max_batch_size == 0:
            return 1
        for tensor in request.inputs:
            if tensor.rank == 0:
                raise InvalidArg(f"{request.log_prefix()}input '{tensor.name}' has no shape but model requires "
                                 f"batch dimension for '{self.model_name}'")
            if rows == -1:
                rows = tensor.dims[0]
            elif tensor.dims[0] != rows:
                raise InvalidArg(f"{request.log_prefix()}input '{tensor.name}' batch size does not match other "
                                 f"inputs for '{self.model_name}'")
        if rows > self.max_batch_size:
            raise InvalidArg(f"{request.log_prefix()}inference request batch-size must be <= "
                             f"{self.max_batch_size} for '{self.model_name}'")
        return 1 if rows == -1 else rows

    cdef int _check(self, InferRequest request, TensorSpec spec, Tensor tensor) except -1:
        cdef int first = 1 if self.max_batch_size > 0 else 0
        cdef bint fits = tensor.rank - first == spec.rank
        cdef int64_t expected
        cdef int i
        if tensor.datatype != spec.datatype:
            raise InvalidArg(f"{request.log_prefix()}inference input '{spec.name}' data-type is "
                             f"'{to_name(tensor.datatype)}', but model '{self.model_name}' expects "
                             f"'{to_name(spec.datatype)}'")
        if fits:
            for i in range(spec.rank):
                if spec.c_dims[i] != -1 and spec.c_dims[i] != tensor.dims[first + i]:
                    fits = False
                    break
        if not fits and not spec.any_rank:
            dims = ((-1,) if first else ()) + spec.dims
            raise InvalidArg(f"{request.log_prefix()}unexpected shape for input '{spec.name}' for model "
                             f"'{self.model_name}'. Expected {format_dims(dims)}, got {format_dims(tensor.shape)}. "
                             + (_BATCH_NOTE if first else ""))
        if spec.datatype == DT_BYTES:
            if tensor.buffer is not None and tensor.buffer.memory_type == MEMORY_GPU:
                request.alone = True
            return 0
        expected = nbytes(tensor.element_count, spec.datatype)
        if expected < 0:
            raise InvalidArg(f"byte size overflow for input '{spec.name}': element count ({tensor.element_count}) "
                             "exceeds maximum allowed size (9223372036854775807)")
        if expected != tensor.nbytes:
            raise InvalidArg(f"{request.log_prefix()}input byte size mismatch for input '{spec.name}' for model "
                             f"'{self.model_name}'. Expected {expected}, got {tensor.nbytes}")
        return 0

    cdef int check_bytes(self, InferRequest request, Tensor tensor) except -1:
        cdef const char *data = tensor.data
        cdef int64_t size = tensor.nbytes
        cdef int64_t count = tensor.element_count
        cdef int64_t found, at
        if size < LONG:
            found = _strings(data, size, count, &at)
        else:
            with nogil:
                found = _strings(data, size, count, &at)
        if found == count and at == size:
            return 0
        prefix = request.log_prefix()
        of = f"for inference input '{tensor.name}' for model '{self.model_name}'"
        if found > count:
            raise InvalidArg(f"{prefix}unexpected number of string elements {found} {of}, expecting {count}")
        if at == size:
            raise InvalidArg(f"{prefix}expected {count} string elements {of}, got {found}")
        if size - at < 4:
            raise InvalidArg(f"{prefix}incomplete string length indicator {of}, expecting 4 bytes but only "
                             f"{size - at} bytes available. Please make sure the string length indicator is in one "
                             "buffer.")
        length = int.from_bytes(tensor.data[at:at + 4], "little")
        raise InvalidArg(f"incomplete string data for inference input '{tensor.name}', expecting string of length "
                         f"{length} but only {size - at - 4} bytes available")


# Whole strings from the front on, one more than `most` at most; `at` is behind the last one.
cdef int64_t _strings(const char *data, int64_t size, int64_t most, int64_t *at) noexcept nogil:
    cdef int64_t found = 0
    cdef int64_t end
    at[0] = size
    if ta_bytes_skip(data, size, 0, most) == size:
        return most
    at[0] = 0
    while at[0] < size and found <= most:
        end = ta_bytes_skip(data, size, at[0], 1)
        if end < 0:
            break
        at[0] = end
        found += 1
    return found


cdef int _placements(InferRequest request) except -1:
    cdef RequestedOutput output
    cdef int count = 0
    for output in request.outputs:
        if output.region is not None:
            count += 1
    return count
