"""Plans of models whose requests may differ in shape: ragged inputs, padding, what the server makes beside them."""

cimport cython
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from triton_async.datatypes cimport itemsize
from triton_async.infer.request cimport InferRequest
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor

from triton_async.errors import InvalidArg

# Kinds of batch_input, as model_config.proto numbers them.
BATCH_INPUT_KINDS = 6


@cython.final
cdef class BatchPlan:
    """Of a model with `n_inputs` and `n_outputs`, those that the server makes among them. `lengths`: (name, buckets) of
    each length; at most `max_elements` padded elements share a batch."""

    def __cinit__(self, int n_inputs, int n_outputs, lengths=(), int64_t max_elements=0):
        cdef int i, k
        if len(lengths) > TA_MAX_LENGTHS:
            raise InvalidArg(f"{len(lengths)} padded lengths, at most {TA_MAX_LENGTHS} are supported")
        self.c.n_inputs = n_inputs
        self.c.n_outputs = n_outputs
        self.c.n_lengths = len(lengths)
        self.c.owner = <void *>self
        self.c.inputs = <ta_input_plan *>calloc(n_inputs + 1, sizeof(ta_input_plan))
        self.c.outputs = <ta_output_plan *>calloc(n_outputs + 1, sizeof(ta_output_plan))
        if self.c.inputs == NULL or self.c.outputs == NULL:
            raise MemoryError
        for i in range(n_inputs):
            for k in range(TA_MAX_RANK):
                self.c.inputs[i].lengths[k] = -1
        for i in range(n_outputs):
            for k in range(TA_MAX_RANK):
                self.c.outputs[i].lengths[k] = -1
        self.names = tuple([name for name, _ in lengths])
        self.buckets = [tuple(sizes) for _, sizes in lengths]
        self.sources = [[] for _ in lengths]
        self.pads = len(lengths) > 0
        self.max_elements = max_elements

    def __dealloc__(self):
        free(self.c.inputs)
        free(self.c.outputs)

    cdef ta_input_plan *_input(self, int place) except NULL:
        if not 0 <= place < self.c.n_inputs:
            raise IndexError(place)
        return &self.c.inputs[place]

    cdef ta_output_plan *_output(self, int place) except NULL:
        if not 0 <= place < self.c.n_outputs:
            raise IndexError(place)
        return &self.c.outputs[place]

    cdef int _set_lengths(self, int32_t *to, lengths, int place) except -1:
        cdef int k
        for k, length in enumerate(lengths):
            to[k] = -1 if length is None else length
            if length is not None and place >= 0:
                (<list>self.sources[length]).append((place, k + 1))
        return 0

    def belongs_to(self, str model, list inputs, list outputs):
        """Names for messages, of its model and that one's inputs and outputs."""
        assert len(inputs) == self.c.n_inputs and len(outputs) == self.c.n_outputs
        self.model = model
        self.input_names = inputs
        self.output_names = outputs

    def set_ragged(self, int place):
        """Input `place` is ragged."""
        self._input(place).kind = TA_INPUT_RAGGED
        self.ragged = True

    def set_batch_input(self, int place, int kind, int datatype, int source):
        """Input `place` is a batch_input of `kind`, a number of model_config.proto, and tells of input `source`."""
        cdef ta_input_plan *plan = self._input(place)
        assert 0 <= kind < BATCH_INPUT_KINDS
        plan.kind = TA_INPUT_ELEMENT_COUNT + kind
        plan.datatype = datatype
        plan.itemsize = itemsize(datatype)
        plan.source = source
        self.ragged = True

    def set_padded(self, int place, int datatype, lengths, bytes pad):
        """Input `place` is padded with the element `pad`. `lengths`: the length that each dimension behind the rows
        has, or None."""
        cdef ta_input_plan *plan = self._input(place)
        plan.kind = TA_INPUT_PADDED
        plan.datatype = datatype
        plan.itemsize = itemsize(datatype)
        plan.rank = len(lengths)
        memcpy(plan.pad, <char *>pad, plan.itemsize)
        self._set_lengths(plan.lengths, lengths, place)

    def set_mask(self, int place, int datatype, dims, lengths, bytes value, bytes pad):
        """Input `place` is a mask of `dims` behind the rows, -1 where `lengths` say: `value` for elements, else `pad`.
        """
        cdef ta_input_plan *plan = self._input(place)
        cdef int k
        plan.kind = TA_INPUT_MASK
        plan.datatype = datatype
        plan.itemsize = itemsize(datatype)
        plan.rank = len(dims)
        for k in range(plan.rank):
            plan.dims[k] = dims[k]
        memcpy(plan.value, <char *>value, plan.itemsize)
        memcpy(plan.pad, <char *>pad, plan.itemsize)
        self._set_lengths(plan.lengths, lengths, -1)

    def set_lengths(self, int place, int datatype, dims, int length):
        """Input `place` has for each row how long it is, in `dims`, which are ones."""
        cdef ta_input_plan *plan = self._input(place)
        cdef int k
        plan.kind = TA_INPUT_LENGTHS
        plan.datatype = datatype
        plan.itemsize = itemsize(datatype)
        plan.length = length
        plan.rank = len(dims)
        for k in range(plan.rank):
            plan.dims[k] = dims[k]

    def set_scattered(self, int place, int datatype, dims, int source):
        """Output `place` has the parts of all requests behind each other. `dims`: of a part, rows among them, -1 where
        it is as long as the same dimension of input `source`."""
        cdef ta_output_plan *plan = self._output(place)
        cdef int k
        plan.kind = TA_OUTPUT_SCATTERED
        plan.itemsize = itemsize(datatype)
        plan.source = source
        plan.rank = len(dims)
        for k in range(plan.rank):
            plan.dims[k] = dims[k]

    def set_cut(self, int place, int datatype, lengths):
        """Output `place` has rows that are padded: `lengths` as in `set_padded`."""
        cdef ta_output_plan *plan = self._output(place)
        plan.kind = TA_OUTPUT_CUT
        plan.itemsize = itemsize(datatype)
        plan.rank = len(lengths)
        self._set_lengths(plan.lengths, lengths, -1)

    cdef bint is_uneven(self, Py_ssize_t place) noexcept:
        return self.c.inputs[place].kind != TA_INPUT_PLAIN

    cdef int64_t padded(self, int length, int64_t size) noexcept:
        cdef tuple sizes = <tuple>self.buckets[length]
        if not sizes:
            return size
        for bucket in sizes:
            if size <= <int64_t>bucket:
                return bucket
        return -1

    cdef int64_t size_of(self, InferRequest request, int length) noexcept:
        cdef tuple found
        cdef Tensor tensor
        for found in <list>self.sources[length]:
            tensor = <Tensor>request.slots[<Py_ssize_t>found[0]]
            if tensor is not None:
                return tensor.dims[<int>found[1]]
        return 0

    cdef int check(self, InferRequest request) except -1:
        # Nothing of something counts as one: another request may bring some of it.
        cdef int64_t total = max(request.rows, 1)
        cdef int64_t size
        cdef int64_t padded
        cdef Tensor tensor
        cdef Tensor first
        cdef int length
        for length in range(self.c.n_lengths):
            name = self.names[length]
            first = None
            size = 0
            for place, dim in self.sources[length]:
                tensor = <Tensor>request.slots[place]
                if tensor is None:
                    continue
                if first is None:
                    first = tensor
                    size = tensor.dims[<int>dim]
                elif tensor.dims[<int>dim] != size:
                    raise InvalidArg(
                        f"{request.log_prefix()}input '{tensor.name}' has {tensor.dims[<int>dim]} where input "
                        f"'{first.name}' has {size}, which model '{self.model}' takes for the same length '{name}'"
                    )
            padded = self.padded(length, size)
            if padded < 0:
                raise InvalidArg(
                    f"{request.log_prefix()}input '{first.name}' has {size} for length '{name}', but the longest that "
                    f"model '{self.model}' is padded to is {max(self.buckets[length])}"
                )
            padded = max(padded, 1)
            if total > self.max_elements // padded:
                raise InvalidArg(
                    f"{request.log_prefix()}request has more than {self.max_elements} padded elements, which is what "
                    f"'max_elements' of the padding of model '{self.model}' allows for a batch"
                )
            total *= padded
        return 0


@cython.final
cdef class Room:
    """Room in the pending batch of a model with `plan`."""

    def __init__(self, BatchPlan plan):
        self.plan = plan
        self.clear()

    cdef int clear(self) noexcept:
        cdef int length
        self.rows = -1
        for length in range(TA_MAX_LENGTHS):
            self.sizes[length] = 0
        return 0

    cdef bint add(self, InferRequest request) noexcept:
        cdef BatchPlan plan = self.plan
        cdef int64_t[8] sizes
        cdef bint first = self.rows < 0
        cdef int64_t rows = request.rows if first else self.rows + request.rows
        cdef int64_t total = max(rows, 1)
        cdef int length
        for length in range(plan.c.n_lengths):
            sizes[length] = max(self.sizes[length], plan.padded(length, plan.size_of(request, length)), 1)
            if not first and total > plan.max_elements // sizes[length]:
                return False
            total *= sizes[length]
        for length in range(plan.c.n_lengths):
            self.sizes[length] = sizes[length]
        self.rows = rows
        return True
