"""Batches: the C layout that instances read, and the split of their outputs into responses."""

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from triton_async.codes cimport TA_CODE_INTERNAL
from triton_async.datatypes cimport DT_BYTES, elements, nbytes, to_name
from triton_async.infer.assembly cimport lay_out, release, ta_assembly_nbytes, ta_part_dims
from triton_async.infer.event cimport TA_EXECUTED
from triton_async.infer.framing cimport ta_bytes_skip
from triton_async.infer.gather cimport ta_batch_close_times, ta_batch_fail, ta_tensor_release
from triton_async.infer.plan cimport BatchPlan
from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor, view_dims
from triton_async.memory.buffer cimport MEMORY_CPU, MEMORY_GPU, Buffer, foreign
from triton_async.memory.cuda cimport describe
from triton_async.memory.slab cimport ta_slab_return

from triton_async.errors import InternalError, ServerError, from_code
from triton_async.infer.signature import format_dims

cdef int64_t _live = 0

# Where an output without bytes points: a filled output never has a NULL address.
cdef char _EMPTY = 0


# Blocks that ended batches of ordinary size have left for the next ones. Under the GIL.
cdef enum:
    SPARE_NBYTES = 1536
    MOST_SPARES = 64
cdef void *_spares[MOST_SPARES]
cdef int _n_spares = 0


# Zeroed; NULL when there is none.
cdef void *_take(size_t size) noexcept:
    global _n_spares
    cdef void *memory
    if size > SPARE_NBYTES:
        return calloc(1, size)
    if _n_spares:
        _n_spares -= 1
        memory = _spares[_n_spares]
    else:
        memory = malloc(SPARE_NBYTES)
    return memory if memory == NULL else memset(memory, 0, size)


cdef void _give_back(void *memory, size_t size) noexcept:
    global _n_spares
    if size > SPARE_NBYTES or _n_spares == MOST_SPARES:
        free(memory)
        return
    _spares[_n_spares] = memory
    _n_spares += 1


@cython.final
@cython.freelist(64)
cdef class Batch:
    """Requests of one model version that run together."""

    def __cinit__(self, ModelSignature signature):
        global _live
        _live += 1
        self.signature = signature
        self.requests = []

    def __dealloc__(self):
        global _live
        cdef int i
        _live -= 1
        if self.memory != NULL:
            for i in range(self.c.n_inputs):
                ta_tensor_release(&self.c.inputs[i])
            for i in range(self.c.n_outputs):
                ta_tensor_release(&self.c.outputs[i])
            release(&self.c)
            _give_back(self.memory, self.memory_nbytes)

    cdef int add(self, InferRequest request) except -1:
        assert self.state == BATCH_OPEN
        self.requests.append(request)
        self.rows += request.rows
        return 0

    cdef int close(self) except -1:
        cdef int n_inputs = len(self.signature.inputs)
        cdef int n_outputs = len(self.signature.outputs)
        cdef int n_requests = len(self.requests)
        cdef size_t fixed = (n_inputs + n_outputs) * sizeof(ta_tensor) + (
            <size_t>n_inputs * n_requests * sizeof(ta_segment)
        )
        cdef size_t n_placements = 0
        cdef list placements = None
        cdef BatchPlan plan = self.signature.plan
        cdef InferRequest request
        cdef ta_segment *segments
        cdef int i
        assert self.state == BATCH_OPEN and n_requests > 0
        for request in self.requests:
            n_placements += request.n_placements
        fixed += n_placements * sizeof(ta_placement)
        self.memory_nbytes = fixed
        if plan is not None:
            self.memory_nbytes += ta_assembly_nbytes(&plan.c, n_requests)
        self.memory = _take(self.memory_nbytes)
        if self.memory == NULL:
            raise MemoryError
        self.c.n_inputs = n_inputs
        self.c.n_outputs = n_outputs
        self.c.n_requests = n_requests
        self.c.rows = self.rows
        self.c.inputs = <ta_tensor *>self.memory
        self.c.outputs = self.c.inputs + n_inputs
        self.c.owner = self.c.message.owner = <void *>self
        self.c.message.event = TA_EXECUTED
        segments = <ta_segment *>(self.c.outputs + n_outputs)
        for i in range(n_inputs):
            _lay_out_input(self, i, segments + <Py_ssize_t>i * n_requests)
        if plan is not None:
            lay_out(plan, &self.c, self.requests, <char *>self.memory + fixed)
        if n_placements:
            placements = _find_placements(self)
            self._place(placements, <ta_placement *>(segments + <Py_ssize_t>n_inputs * n_requests))
        _lay_out_outputs(self, placements)
        self.state = BATCH_CLOSED
        return 0

    cdef int _place(self, list found, ta_placement *placements) except -1:
        cdef ta_placement *placement = placements
        cdef RequestedOutput output
        cdef int64_t row = 0
        cdef list first_rows = []
        cdef InferRequest request
        for request in self.requests:
            first_rows.append(row)
            row += request.rows
        for index, number, output in found:
            placement.data = output.region.data
            placement.capacity = output.region.nbytes
            placement.memory_type = output.region.memory_type
            placement.device_id = output.region.device_id
            placement.output = index
            placement.request = number
            if self.signature.max_batch_size > 0:
                placement.row = first_rows[number]
                placement.rows = (<InferRequest>self.requests[number]).rows
            placement += 1
        self.c.placements = placements
        self.c.n_placements = len(found)
        return 0

    cdef list finish(self):
        cdef InferRequest request
        cdef list responses
        cdef int i
        assert self.state == BATCH_CLOSED
        self.state = BATCH_DONE
        for i in range(self.c.n_inputs):
            ta_tensor_release(&self.c.inputs[i])
        release(&self.c)
        if self.c.failed:
            code, message = self.c.error_code, self.c.error.decode("utf-8", "ignore")
        else:
            try:
                return self._split()
            except ServerError as error:
                code, message = error.code, error.message
            except Exception as error:  # whatever it is, every request gets an answer
                code, message = TA_CODE_INTERNAL, f"{type(error).__name__} while splitting the outputs of a batch"
        responses = []
        for request in self.requests:
            # An error of its own for each: raised, it carries the traceback of one request.
            responses.append(InferResponse(request, self.signature.model_name, self.signature.model_version, [],
                                           None, from_code(code, message)))
        return responses

    cdef list _split(self):
        # Per request: its outputs, or the error that one of them had.
        cdef list outputs = [[] for _ in range(self.c.n_requests)]
        cdef list responses = []
        cdef InferResponse response
        cdef TensorSpec spec
        cdef int placed = 0
        cdef int i
        for i in range(self.c.n_outputs):
            if self.c.outputs[i].wanted:
                spec = <TensorSpec>self.signature.outputs[i]
                placed = _split_output(self, spec, &self.c.outputs[i], outputs, placed)
        for i in range(self.c.n_requests):
            if type(outputs[i]) is not list:
                responses.append(InferResponse(self.requests[i], self.signature.model_name,
                                               self.signature.model_version, [], None, outputs[i]))
                continue
            response = InferResponse.__new__(InferResponse)
            response.request = self.requests[i]
            response.model_name = self.signature.model_name
            response.model_version = self.signature.model_version
            response.outputs = <list>outputs[i]
            response.final = True
            responses.append(response)
        return responses

    cdef list request_inputs(self, int number):
        cdef InferRequest request = <InferRequest>self.requests[number]
        cdef ta_segment *segment
        cdef list tensors
        cdef Tensor sent
        cdef Buffer buffer
        cdef int i
        if not self.c.device_inputs:
            return list(request.slots)
        tensors = []
        for i in range(self.c.n_inputs):
            sent = <Tensor>request.slots[i]
            segment = &self.c.inputs[i].segments[number]
            if sent is None or segment.data == sent.data:
                tensors.append(sent)
                continue
            buffer = foreign(<char *>segment.data, segment.nbytes, <void *>self, _release_object,
                             segment.memory_type, segment.device_id)
            Py_INCREF(self)
            tensors.append(view_dims(sent.name, sent.datatype, sent.dims, sent.rank, sent.element_count, buffer,
                                     <char *>segment.data, segment.nbytes))
        return tensors

    cdef list input_tensors(self):
        cdef list tensors = []
        cdef ta_tensor *c
        cdef TensorSpec spec
        cdef Tensor tensor
        cdef Tensor sent
        cdef Buffer buffer
        cdef int i
        for i in range(self.c.n_inputs):
            c = &self.c.inputs[i]
            spec = <TensorSpec>self.signature.inputs[i]
            if not c.wanted:
                tensors.append(None)
                continue
            if c.release != NULL:
                buffer = foreign(c.data, c.nbytes, c.owner, c.release, c.memory_type, c.device_id)
                c.owner = NULL
                c.release = NULL
            elif self.c.assembly != NULL and self.c.assembly.made[i] != NULL:
                buffer = foreign(c.data, c.nbytes, self.c.assembly.made[i], ta_slab_return, c.memory_type, c.device_id)
                self.c.assembly.made[i] = NULL
            else:
                # Not gathered: the bytes of the one request.
                sent = <Tensor>(<InferRequest>self.requests[0]).slots[i]
                buffer = foreign(c.data, c.nbytes, <void *>sent, _release_object, c.memory_type, c.device_id)
                Py_INCREF(sent)
            buffer.readonly = True
            tensor = view_dims(spec.name, spec.datatype, c.dims, c.rank, elements(c.dims, c.rank), buffer, c.data,
                               c.nbytes)
            tensors.append(tensor)
        return tensors

    cdef int set_output(self, int index, Tensor tensor) except -1:
        cdef ta_tensor *c
        cdef TensorSpec spec
        cdef int i
        if index >= self.c.n_outputs:
            raise InternalError(f"model '{self.signature.model_name}' produced more outputs than the "
                                f"{self.c.n_outputs} of its configuration")
        c = &self.c.outputs[index]
        spec = <TensorSpec>self.signature.outputs[index]
        if tensor.datatype != spec.datatype:
            raise InternalError(f"output '{spec.name}' of model '{self.signature.model_name}' has data-type "
                                f"'{to_name(tensor.datatype)}', but its configuration says '{to_name(spec.datatype)}'")
        if not c.wanted:
            return 0
        c.rank = tensor.rank
        for i in range(tensor.rank):
            c.dims[i] = tensor.dims[i]
        c.nbytes = tensor.nbytes
        c.data = tensor.data if tensor.nbytes else <char *>&_EMPTY
        c.memory_type = MEMORY_CPU if tensor.buffer is None else tensor.buffer.memory_type
        c.device_id = 0 if tensor.buffer is None else tensor.buffer.device_id
        Py_INCREF(tensor)
        c.owner = <void *>tensor
        c.release = _release_object
        return 0


cdef Batch closed_batch(ModelSignature signature, list requests):
    cdef Batch batch = Batch(signature)
    cdef InferRequest request
    for request in requests:
        batch.add(request)
    batch.close()
    return batch


cdef bint compatible(ModelSignature signature, InferRequest first, InferRequest request) noexcept:
    cdef list mine = first.slots
    cdef list theirs = request.slots
    cdef Py_ssize_t i
    if (first.alone or request.alone) and first is not request:
        return False
    for i in range(len(mine)):
        if mine[i] is None or theirs[i] is None:
            if mine[i] is not theirs[i]:
                return False
        elif not (<Tensor>mine[i]).same_shape(<Tensor>theirs[i], 1) and (
            signature.plan is None or not signature.plan.is_uneven(i)
        ):
            return False
    return True


cdef void _release_object(void *owner) noexcept nogil:
    with gil:
        Py_DECREF(<object>owner)


cdef int _lay_out_input(Batch batch, int index, ta_segment *segments) except -1:
    cdef ta_tensor *c = &batch.c.inputs[index]
    cdef InferRequest request = <InferRequest>batch.requests[0]
    cdef Tensor tensor = <Tensor>request.slots[index]
    cdef TensorSpec spec = <TensorSpec>batch.signature.inputs[index]
    cdef bint batching = batch.signature.max_batch_size > 0
    cdef int i
    c.datatype = spec.datatype
    c.segments = segments
    if tensor is None:
        return 0
    c.wanted = 1
    c.rank = spec.engine_dims(tensor.dims, tensor.rank, batching, c.dims)
    if batching:
        c.dims[0] = batch.rows
    c.n_segments = batch.c.n_requests
    for i in range(batch.c.n_requests):
        request = <InferRequest>batch.requests[i]
        tensor = <Tensor>request.slots[index]
        segments[i].data = tensor.data
        segments[i].nbytes = tensor.nbytes
        segments[i].rows = request.rows
        segments[i].dims = tensor.dims
        segments[i].rank = tensor.rank
        if tensor.buffer is not None:
            segments[i].memory_type = tensor.buffer.memory_type
            segments[i].device_id = tensor.buffer.device_id
            if tensor.buffer.memory_type == MEMORY_GPU:
                batch.c.device_inputs = 1
        c.nbytes += tensor.nbytes
    if c.n_segments == 1:
        c.memory_type = segments[0].memory_type
        c.device_id = segments[0].device_id
    return 0


# (output index, request index, RequestedOutput) of all outputs that go to regions, by output, then request. A request
# without rows has nothing to place.
cdef list _find_placements(Batch batch):
    cdef list found = []
    cdef InferRequest request
    cdef RequestedOutput output
    for number, request in enumerate(batch.requests):
        if request.n_placements and request.rows:
            for output in request.outputs:
                if output.region is not None:
                    spec = <TensorSpec>batch.signature.output_by_name[output.name]
                    found.append(((<TensorSpec>spec).index, number, output))
    found.sort(key=_by_place)
    return found


def _by_place(tuple found):
    return found[:2]


cdef int _lay_out_outputs(Batch batch, list placements) except -1:
    cdef set placed = None if placements is None else {found[:2] for found in placements}
    cdef InferRequest request
    cdef TensorSpec spec
    cdef int i, number
    for i in range(batch.c.n_outputs):
        spec = <TensorSpec>batch.signature.outputs[i]
        batch.c.outputs[i].datatype = spec.datatype
        for number in range(batch.c.n_requests):
            request = <InferRequest>batch.requests[number]
            if not asks_for(request, spec):
                continue
            if batch.c.outputs[i].parts != NULL:
                batch.c.outputs[i].wanted = TA_WANTED  # the host takes it apart
                break
            if placed is not None and (i, number) in placed:
                if batch.c.outputs[i].wanted == TA_NOT_WANTED:
                    batch.c.outputs[i].wanted = TA_WANTED_PLACED
            elif _takes_anywhere(request, spec):
                batch.c.outputs[i].wanted = TA_WANTED_ANYWHERE
            else:
                batch.c.outputs[i].wanted = TA_WANTED
                break
    return 0


# Whether the request takes this output where the engine leaves it, on a device too.
cdef bint _takes_anywhere(InferRequest request, TensorSpec spec) except -1:
    cdef RequestedOutput output
    for output in request.outputs:
        if output.name == spec.name:
            return output.anywhere
    return False


# The last bit of `wanted` says that any output from there on is asked for; which ones, only the request knows.
cdef bint asks_for(InferRequest request, TensorSpec spec) noexcept:
    cdef RequestedOutput output
    if spec.injected:
        return True
    if spec.index < 63:
        return (request.wanted >> spec.index) & 1
    if request.wanted >> 63 == 0:
        return False
    if not request.outputs:
        return True
    for output in request.outputs:
        if output.name == spec.name:
            return True
    return False


cdef void check_batch(ta_batch *batch) noexcept nogil:
    cdef int i
    ta_batch_close_times(batch)
    if batch.by_request:
        return
    for i in range(batch.n_outputs):
        if batch.failed:
            return
        if batch.outputs[i].wanted and not _is_whole(batch, i):
            with gil:
                _refuse_output(batch, i)


cdef bint _is_whole(const ta_batch *batch, int index) noexcept nogil:
    cdef const ta_tensor *c = &batch.outputs[index]
    cdef int64_t count
    if c.data == NULL and (c.wanted != TA_WANTED_PLACED or not _all_placed(batch, index)):
        return False
    if c.rank < 0 or c.rank > TA_MAX_RANK:
        return False
    count = elements(c.dims, c.rank)
    if c.datatype != DT_BYTES:
        return count >= 0 and nbytes(count, c.datatype) == c.nbytes
    if count < 0 or c.data == NULL:
        return False
    return c.memory_type == MEMORY_GPU or ta_bytes_skip(c.data, c.nbytes, 0, count) == c.nbytes


# Whether nobody needs the bytes of an output any more.
cdef bint _all_placed(const ta_batch *batch, int index) noexcept nogil:
    cdef int i
    for i in range(batch.n_placements):
        if batch.placements[i].output == index and batch.placements[i].placed == TA_NOT_PLACED:
            return False
    return True


cdef int _refuse_output(ta_batch *batch, int index) noexcept:
    cdef ModelSignature signature = (<Batch>batch.owner).signature
    cdef ta_tensor *c = &batch.outputs[index]
    cdef int i
    name = (<TensorSpec>signature.outputs[index]).name
    if c.data == NULL:
        text = f"model '{signature.model_name}' did not produce output '{name}', which is in its configuration"
    elif c.rank < 0 or c.rank > TA_MAX_RANK:
        text = (f"output '{name}' of model '{signature.model_name}' has {c.rank} dimensions, at most {TA_MAX_RANK} are "
                "supported")
    elif c.datatype == DT_BYTES:
        text = f"output '{name}' of model '{signature.model_name}' has broken string elements"
    else:
        dims = format_dims([c.dims[i] for i in range(c.rank)])
        text = (f"output '{name}' of model '{signature.model_name}' has {c.nbytes} bytes, which do not fill its shape "
                f"{dims}")
    shown = text.encode()
    ta_batch_fail(batch, TA_CODE_INTERNAL, "%.1000s", <const char *>shown)
    return 0


# Triton's words where there are too few rows, else what was expected and what may be meant.
cdef str _not_split(Batch batch, TensorSpec spec, int rank, const int64_t *dims):
    text = f"failed to split the output tensor '{spec.name}' in responses: expected "
    if rank < 1 or dims[0] < batch.rows:
        return f"{text}batch size of at least {batch.rows} in model output, got {dims[0] if rank else 0}"
    shape = format_dims([dims[i] for i in range(rank)])
    return (f"{text}a first dimension of {batch.rows}, the rows of the batch, got shape {shape}. If not all inputs and "
            f"outputs of model '{batch.signature.model_name}' begin with the batch, set 'max_batch_size: 0' and write "
            "all their dimensions")


# Gives each request its rows of one output, as views of the same bytes; those that went to a region have none. `place`:
# first placement of the output; returns the first behind it.
cdef int _split_output(Batch batch, TensorSpec spec, ta_tensor *c, list outputs, int place) except -1:
    cdef bint apart = c.parts != NULL
    cdef bint batching = batch.signature.max_batch_size > 0 and not apart
    cdef int64_t[TA_MAX_RANK] dims
    cdef int rank = spec.client_dims(c.dims, c.rank, batching, dims) if not apart else 0
    cdef InferRequest request
    cdef int64_t offset = 0
    cdef int64_t end = 0
    cdef int64_t row_elements
    cdef int64_t count
    cdef Buffer buffer = None
    cdef object problem
    cdef int i
    if rank < 0:
        raise InternalError(f"model '{batch.signature.model_name}', output '{spec.name}': the model's shape "
                            "does not match the reshape in the configuration")
    if batching and batch.c.n_requests == 1 and rank >= 1 and dims[0] == 0:
        batching = False  # nothing is split: the request has asked for what came to nothing
    if batching and (rank < 1 or dims[0] != batch.rows):
        raise InternalError(_not_split(batch, spec, rank, dims))
    if c.wanted != TA_WANTED_PLACED:
        buffer = foreign(c.data, c.nbytes, c.owner, c.release, c.memory_type, c.device_id)
        c.release = NULL
    if batching:
        dims[0] = 1
    row_elements = elements(dims, rank)
    for i in range(batch.c.n_requests):
        request = <InferRequest>batch.requests[i]
        if batching:
            dims[0] = request.rows
        count = request.rows * row_elements if batching else row_elements
        if apart:
            rank = ta_part_dims(&batch.c, spec.index, i, dims)
            count = elements(dims, rank)
            offset = c.parts[i].start
            end = offset + c.parts[i].nbytes
        elif buffer is not None:
            end = _end_of_rows(batch, spec, c, i, offset, count)
        if place < batch.c.n_placements and batch.c.placements[place].output == spec.index and (
            batch.c.placements[place].request == i
        ):
            problem = placement_problem(spec.name, &batch.c.placements[place])
            place += 1
            if problem is not None:
                outputs[i] = problem
            elif type(outputs[i]) is list:
                (<list>outputs[i]).append(view_dims(spec.name, c.datatype, dims, rank, count, None, NULL, 0))
        elif type(outputs[i]) is list and asks_for(request, spec):
            (<list>outputs[i]).append(view_dims(spec.name, c.datatype, dims, rank, count, buffer, c.data + offset,
                                                end - offset))
        offset = end
    return place


# Where the rows of request `number` end, which begin at `offset`.
cdef int64_t _end_of_rows(Batch batch, TensorSpec spec, const ta_tensor *c, int number, int64_t offset,
                          int64_t count) except -1:
    cdef int64_t end
    if number == batch.c.n_requests - 1:
        return c.nbytes
    if c.datatype == DT_BYTES:
        end = ta_bytes_skip(c.data, c.nbytes, offset, count)
        if end < 0:
            raise InternalError(f"output '{spec.name}' of model '{batch.signature.model_name}' has broken string "
                                "elements")
        return end
    if batch.rows == 0:
        return offset
    return offset + c.nbytes // batch.rows * (<InferRequest>batch.requests[number]).rows


cdef object placement_problem(str name, const ta_placement *placement):
    if placement.placed == TA_PLACED:
        return None
    if placement.placed == TA_TOO_SMALL:
        return InternalError(f"shared memory size specified with the request for output '{name}' "
                             f"({placement.capacity} bytes) should be at least {placement.nbytes} bytes to hold the "
                             "results")
    reason = describe(placement.result) if placement.placed == TA_COPY_FAILED else "nobody copied it"
    return InternalError(f"failed to copy output '{name}' to its shared memory region: {reason}")


cpdef int64_t live_batches():
    return _live
