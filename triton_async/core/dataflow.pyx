"""How tensors go from step to step of an ensemble, and which steps it takes for the outputs that are asked for."""

cimport cython
from libc.string cimport memcpy

from collections import deque

from triton_async.datatypes cimport DT_BYTES
from triton_async.datatypes cimport nbytes as size_of
from triton_async.infer.framing cimport ta_bytes_skip
from triton_async.infer.request cimport RequestedOutput
from triton_async.infer.tensor cimport TA_MAX_RANK, view_dims
from triton_async.memory.buffer cimport MEMORY_GPU

from triton_async.errors import InternalError, Unsupported

# Sets of outputs whose selections are kept.
cdef int MOST_SELECTIONS = 64


@cython.final
cdef class Wire:
    """`spec`: TensorSpec of the taker. `gives`, `takes`: whether giver and taker have a batch dimension. `outside`: of
    an output of the ensemble with a reshape."""

    def __init__(self, str name, int tensor, TensorSpec spec, bint gives, bint takes, TensorSpec outside=None):
        self.batching = takes
        self.outside = outside
        self.name = name
        self.tensor = tensor
        self.spec = spec
        self.fit = FIT_AS_IS if gives == takes or spec.any_rank else FIT_ADD if takes else FIT_DROP

    cdef Tensor fitted(self, Tensor tensor):
        cdef int64_t[TA_MAX_RANK] dims
        cdef int rank
        tensor = self._fitted(tensor)
        if self.outside is None:
            return tensor
        rank = self.outside.client_dims(tensor.dims, tensor.rank, self.batching, dims)
        if rank < 0:
            raise InternalError(f"the shape of output '{self.name}' does not match the reshape in the configuration")
        return view_dims(self.name, tensor.datatype, dims, rank, tensor.element_count, tensor.buffer, tensor.data,
                         tensor.nbytes)

    cdef Tensor _fitted(self, Tensor tensor):
        cdef int64_t[TA_MAX_RANK] dims
        cdef int rank = tensor.rank
        if self.fit == FIT_AS_IS or _matches(self.spec, tensor) != (self.fit == FIT_ADD) or (
                self.fit == FIT_ADD and rank == TA_MAX_RANK) or (
                self.fit == FIT_DROP and (rank == 0 or tensor.dims[0] != 1)):
            if tensor.name == self.name:
                return tensor
            return view_dims(self.name, tensor.datatype, tensor.dims, rank, tensor.element_count, tensor.buffer,
                             tensor.data, tensor.nbytes)
        if self.fit == FIT_ADD:
            dims[0] = 1
            memcpy(&dims[1], tensor.dims, rank * sizeof(int64_t))
            rank += 1
        else:
            rank -= 1
            memcpy(dims, &tensor.dims[1], rank * sizeof(int64_t))
        return view_dims(self.name, tensor.datatype, dims, rank, tensor.element_count, tensor.buffer, tensor.data,
                         tensor.nbytes)


# Whether the tensor has the dims that are declared, without a batch dimension.
cdef bint _matches(TensorSpec spec, Tensor tensor) noexcept:
    cdef int i
    if tensor.rank != spec.rank:
        return False
    for i in range(spec.rank):
        if spec.c_dims[i] != -1 and spec.c_dims[i] != tensor.dims[i]:
            return False
    return True


@cython.final
cdef class Step:
    """`inputs`: Wires; `outputs`: names of the model's outputs -> numbers of the ensemble's tensors. `key`: that of the
    model, its name when it is left out."""

    def __init__(self, str model_name, int64_t model_version, int number, inputs, outputs, int level, bint decoupled,
                 int64_t limit=0, str key=None):
        self.model_name = model_name
        self.key = key or model_name
        self.model_version = model_version
        self.number = number
        self.inputs = tuple(inputs)
        self.outputs = dict(outputs)
        self.level = level
        self.decoupled = decoupled
        self.limit = limit
        self.open = set()
        self.waiting = deque()


@cython.final
cdef class Selection:
    """See dataflow.pxd."""


@cython.final
cdef class Dataflow:
    """`inputs`: numbers of the tensors of the ensemble's inputs; `outputs`: Wires of its outputs; `levels`: of all
    tensors."""

    def __init__(self, steps, inputs, outputs, levels):
        cdef Step step
        self.steps = tuple(steps)
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.levels = tuple(levels)
        self.n_tensors = len(self.levels)
        self.selections = {}
        writers = [None] * self.n_tensors
        for step in self.steps:
            self.decoupled = self.decoupled or step.decoupled
            for number in step.outputs.values():
                writers[number] = step
        self.writers = tuple(writers)

    cdef Selection select(self, InferRequest request):
        cdef RequestedOutput output
        cdef Selection selection
        cdef object key = None
        if request.n_placements:
            return self._make(request.outputs)
        if request.outputs:
            key = tuple([(output.name, output.anywhere) for output in request.outputs])
        selection = <Selection>self.selections.get(key)
        if selection is None:
            selection = self._make(request.outputs)
            if len(self.selections) >= MOST_SELECTIONS:
                self.selections.clear()
            self.selections[key] = selection
        return selection

    cdef Selection _make(self, list asked):
        cdef Selection selection = Selection.__new__(Selection)
        cdef RequestedOutput output
        cdef dict by_name = {output.name: output for output in asked}
        cdef dict delivered = {}
        cdef set needed = set()
        cdef Step step
        cdef Wire wire
        selection.outputs = [wire for wire in self.outputs if not asked or wire.name in by_name]
        selection.regions = {}
        for wire in selection.outputs:
            delivered[wire.tensor] = by_name.get(wire.name)
            selection.level = max(selection.level, self.levels[wire.tensor])
            selection.made = selection.made or self.writers[wire.tensor] is not None
        left = list(delivered)
        while left:
            step = self.writers[left.pop()]
            if step is not None and step.number not in needed:
                needed.add(step.number)
                left += [wire.tensor for wire in step.inputs]
        selection.steps = [step for step in self.steps if step.number in needed]
        selection.levels = [[step for step in selection.steps if step.level == level]
                            for level in range(selection.level + 1)]
        selection.takers = [[] for _ in range(self.n_tensors)]
        for step in selection.steps:
            for tensor in {wire.tensor for wire in step.inputs}:
                selection.takers[tensor].append(step)
        selection.requested = [None] * len(self.steps)
        for step in selection.steps:
            selection.requested[step.number] = self._requests(step, selection, delivered)
        for tensor, output in delivered.items():
            if output is not None and output.region is not None and self.writers[tensor] is None:
                raise Unsupported(f"output '{output.name}' is an input of the ensemble, which can not be placed in "
                                  "shared memory")
        return selection

    # What a step is asked for: what others take, or what is to be delivered.
    def _requests(self, Step step, Selection selection, dict delivered):
        cdef RequestedOutput output
        found = []
        for name, tensor in step.outputs.items():
            if tensor not in delivered:
                if selection.takers[tensor]:
                    found.append(RequestedOutput(name, anywhere=True))
                continue
            output = delivered[tensor]
            if output is None:
                found.append(RequestedOutput(name))
                continue
            found.append(RequestedOutput(name, region=output.region, anywhere=output.anywhere))
            if output.region is not None and selection.takers[tensor]:
                selection.regions[tensor] = output.region
        return found


@cython.final
@cython.freelist(32)
cdef class Scope:
    cdef object find(self, int tensor):
        cdef Scope scope = self
        while scope is not None:
            found = scope.tensors[tensor]
            if found is not None:
                return found
            scope = scope.above
        return None


cdef int forget(Scope scope) except -1:
    cdef Scope child
    if scope.children is not None:
        for child in scope.children:
            forget(child)
        scope.children = None
    return 0


cdef Scope scope_in(Scope above, int n_tensors, int n_steps):
    cdef Scope scope = Scope.__new__(Scope)
    scope.above = above
    scope.level = 0 if above is None else above.level + 1
    scope.tensors = [None] * n_tensors
    scope.begun = bytearray(n_steps)
    return scope


cdef Tensor inside(Tensor tensor, TensorSpec spec, bint batching):
    cdef int64_t[TA_MAX_RANK] dims
    cdef int rank = spec.engine_dims(tensor.dims, tensor.rank, batching, dims)
    return view_dims(tensor.name, tensor.datatype, dims, rank, tensor.element_count, tensor.buffer, tensor.data,
                     tensor.nbytes)


cdef Tensor in_region(Tensor tensor, Buffer region):
    cdef int64_t nbytes = size_of(tensor.element_count, tensor.datatype)
    if tensor.datatype == DT_BYTES:
        if region.memory_type == MEMORY_GPU:
            raise InternalError(f"string elements of '{tensor.name}' can not be read from a region on a GPU")
        nbytes = ta_bytes_skip(region.data, region.nbytes, 0, tensor.element_count)
    if nbytes < 0 or nbytes > region.nbytes:
        raise InternalError(f"'{tensor.name}' is not in its shared memory region any more")
    return view_dims(tensor.name, tensor.datatype, tensor.dims, tensor.rank, tensor.element_count, region, region.data,
                     nbytes)
