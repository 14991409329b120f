"""Copies between GPUs and the host that core makes for a batch: inputs and outputs in shared memory regions, and
outputs that an instance left on its GPU."""

cimport cython
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy

from triton_async.codes cimport TA_CODE_INTERNAL
from triton_async.datatypes cimport DT_BYTES, elements
from triton_async.infer.assembly cimport split_output
from triton_async.infer.batch cimport (
    TA_COPY_FAILED,
    TA_NOT_PLACED,
    TA_PLACED,
    TA_TOO_SMALL,
    TA_WANTED,
    Batch,
    placement_problem,
    ta_batch,
    ta_placement,
    ta_segment,
    ta_tensor,
)
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.framing cimport ta_bytes_skip
from triton_async.infer.gather cimport ta_batch_fail, ta_tensor_release
from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport TensorSpec
from triton_async.infer.tensor cimport Tensor, view_dims
from triton_async.memory.buffer cimport MEMORY_CPU, MEMORY_GPU, Buffer, foreign
from triton_async.memory.cuda cimport cuda_api, describe, ta_cuda, ta_device_ptr
from triton_async.memory.slab cimport SlabPool, ta_slab, ta_slab_data, ta_slab_lease, ta_slab_return

from triton_async.errors import InternalError, ServerError

# Results of a copy that are no CUresult: no driver is loaded, or the GPU could not be made current.
cdef enum:
    NO_DRIVER = -1
    NOT_CURRENT = -2


@cython.final
cdef class Transfer:
    """`use(device_id)`: makes a GPU current for the calling thread. `home`: the GPU of the instance, -1 for none."""

    def __init__(self, SlabPool pool, use, int home=-1):
        self.pool = pool
        self.use = use
        self.home = home
        self.current = home

    cdef void forget(self) noexcept nogil:
        self.current = -1

    # -- inputs ------------------------------------------------------------------------------------

    cdef void stage(self, ta_batch *batch, bint everything) noexcept nogil:
        cdef int i
        for i in range(batch.n_inputs):
            if not _on_device(&batch.inputs[i]) or not (everything or batch.inputs[i].datatype == DT_BYTES):
                continue
            if self._stage_input(batch, i) < 0:
                break
        self._finish(batch)
        self.copied = False

    # Makes one contiguous host copy of all segments.
    cdef int _stage_input(self, ta_batch *batch, int index) noexcept nogil:
        cdef ta_tensor *tensor = &batch.inputs[index]
        cdef ta_slab *slab = ta_slab_lease(self.pool.pool, tensor.nbytes)
        cdef ta_segment *segment
        cdef char *to
        cdef int result = 0
        cdef int i
        if slab == NULL:
            ta_batch_fail(batch, TA_CODE_INTERNAL, "no memory to gather the inputs of a batch")
            return -1
        to = tensor.data = ta_slab_data(slab)
        tensor.owner = slab
        tensor.release = ta_slab_return
        tensor.memory_type = MEMORY_CPU
        tensor.device_id = 0
        for i in range(tensor.n_segments):
            segment = &tensor.segments[i]
            if segment.memory_type == MEMORY_GPU:
                result = self._copy(to, segment.data, segment.nbytes, segment.device_id)
                if result != 0:
                    with gil:
                        self._fail(batch, _input_text(batch, index, segment.device_id), result)
                    return -1
            elif segment.nbytes:
                memcpy(to, segment.data, segment.nbytes)
            segment.data = to
            segment.memory_type = MEMORY_CPU
            segment.device_id = 0
            to += segment.nbytes
        if tensor.datatype == DT_BYTES:
            if ta_bytes_skip(tensor.data, tensor.nbytes, 0, elements(tensor.dims, tensor.rank)) != tensor.nbytes:
                with gil:
                    _refuse_strings(batch, index)
                return -1
        return 0

    # -- outputs -----------------------------------------------------------------------------------

    cdef void settle(self, ta_batch *batch) noexcept nogil:
        cdef int place = 0
        cdef int i
        for i in range(batch.n_outputs):
            if batch.failed or batch.by_request:
                break
            place = _settle_output(self, batch, i, place)
        self._finish(batch)
        if self.copied:
            self.copied = False
            batch.compute_end_ns = ta_now_ns()

    # Replaces the bytes of an output by a host copy.
    cdef int _to_host(self, ta_batch *batch, int index) noexcept nogil:
        cdef ta_tensor *tensor = &batch.outputs[index]
        cdef ta_slab *slab = ta_slab_lease(self.pool.pool, tensor.nbytes)
        cdef int result
        if slab == NULL:
            ta_batch_fail(batch, TA_CODE_INTERNAL, "no memory for the outputs of a batch")
            return -1
        result = self._copy(ta_slab_data(slab), tensor.data, tensor.nbytes, tensor.device_id)
        if result != 0:
            ta_slab_return(slab)
            with gil:
                self._fail(batch, _output_text(batch, index, tensor.device_id), result)
            return -1
        ta_tensor_release(tensor)
        tensor.data = ta_slab_data(slab)
        tensor.owner = slab
        tensor.release = ta_slab_return
        tensor.memory_type = MEMORY_CPU
        tensor.device_id = 0
        if tensor.datatype == DT_BYTES and (
            ta_bytes_skip(tensor.data, tensor.nbytes, 0, elements(tensor.dims, tensor.rank)) != tensor.nbytes
        ):
            with gil:
                self._fail(batch, _strings_text(batch, index), 0)
            return -1
        return 0

    # Copies the bytes `start` to `end` of an output.
    cdef void _place(self, ta_batch *batch, ta_placement *placement, int64_t start, int64_t end) noexcept nogil:
        cdef ta_tensor *tensor = &batch.outputs[placement.output]
        cdef int result = 0
        placement.nbytes = end - start
        if placement.nbytes > placement.capacity:
            placement.placed = TA_TOO_SMALL
            return
        if placement.memory_type == MEMORY_GPU:
            result = self._copy(placement.data, tensor.data + start, placement.nbytes, placement.device_id)
            self.written = True
        elif tensor.memory_type == MEMORY_GPU:
            result = self._copy(placement.data, tensor.data + start, placement.nbytes, tensor.device_id)
        elif placement.nbytes:
            memcpy(placement.data, tensor.data + start, placement.nbytes)
        placement.placed = TA_PLACED if result == 0 else TA_COPY_FAILED
        placement.result = result

    # -- outputs of one request ---------------------------------------------------------------------

    cdef Tensor brought(self, InferRequest request, Tensor tensor):
        cdef RequestedOutput output
        cdef Buffer buffer
        cdef int result
        if tensor.buffer is None or tensor.buffer.memory_type != MEMORY_GPU:
            return tensor
        for output in request.outputs:
            if output.name != tensor.name:
                continue
            if output.region is not None:  # the copy there waits, too
                return tensor
            if output.anywhere:
                problem = self.awaited(tensor.buffer.device_id)
                if problem is None:
                    return tensor
                raise InternalError(f"output '{tensor.name}' of model '{request.model_name}' can not be used: "
                                    f"{problem}")
        self.forget()
        buffer = self.pool.lease(tensor.nbytes)
        result = self._copy(buffer.data, tensor.data, tensor.nbytes, tensor.buffer.device_id)
        self._go_back()
        if result != 0:
            raise InternalError(f"failed to copy output '{tensor.name}' of model '{request.model_name}' from GPU "
                                f"{tensor.buffer.device_id}: {self._reason(result)}")
        return view_dims(tensor.name, tensor.datatype, tensor.dims, tensor.rank, tensor.element_count, buffer,
                         buffer.data, tensor.nbytes)

    cdef str awaited(self, int device_id):
        cdef const ta_cuda *cuda = cuda_api()
        cdef int result
        self.forget()
        if cuda == NULL:
            return describe(NO_DRIVER)
        result = self._make_current(device_id)
        if result == 0:
            with nogil:
                result = cuda.stream_synchronize(NULL)
        self._go_back()
        return None if result == 0 else self._reason(result)

    cdef object place_response(self, InferResponse response):
        cdef RequestedOutput output
        cdef Tensor tensor
        cdef ta_placement placement
        cdef int i
        self.forget()
        for i in range(len(response.outputs)):
            tensor = <Tensor>response.outputs[i]
            for output in (<InferRequest>response.request).outputs:
                if output.region is None or output.name != tensor.name:
                    continue
                self._place_tensor(tensor, output.region, &placement)
                problem = placement_problem(tensor.name, &placement)
                if problem is not None:
                    return problem
                response.outputs[i] = view_dims(tensor.name, tensor.datatype, tensor.dims, tensor.rank,
                                                tensor.element_count, None, NULL, 0)
        result = self._flush()
        self._go_back()
        if result != 0:
            self.lost = 0
            return InternalError("failed to wait for copies to GPU memory")
        return None

    cdef int _place_tensor(self, Tensor tensor, Buffer region, ta_placement *placement) except -1:
        cdef int32_t device_id = region.device_id
        placement.nbytes = tensor.nbytes
        placement.capacity = region.nbytes
        placement.placed = TA_TOO_SMALL
        if tensor.nbytes > region.nbytes:
            return 0
        placement.result = 0
        if region.memory_type == MEMORY_GPU:
            placement.result = self._copy(region.data, tensor.data, tensor.nbytes, device_id)
            self.written = True
        elif tensor.buffer is not None and tensor.buffer.memory_type == MEMORY_GPU:
            placement.result = self._copy(region.data, tensor.data, tensor.nbytes, tensor.buffer.device_id)
        elif tensor.nbytes:
            memcpy(region.data, tensor.data, tensor.nbytes)
        placement.placed = TA_PLACED if placement.result == 0 else TA_COPY_FAILED
        return 0

    # -- CUDA --------------------------------------------------------------------------------------

    # 0, a CUresult, NO_DRIVER or NOT_CURRENT. `device_id`: of the side that is on a GPU, of `to` when both are.
    cdef int _copy(self, char *to, const char *source, int64_t nbytes, int32_t device_id) noexcept nogil:
        cdef const ta_cuda *cuda = cuda_api()
        cdef int result
        if nbytes == 0:
            return 0
        self.copied = True
        if cuda == NULL:
            return NO_DRIVER
        if self.current != device_id:
            result = self._flush()
            if result == 0:
                result = self._make_current(device_id)
            if result != 0:
                return result
        return cuda.memcpy_sync(<ta_device_ptr>to, <ta_device_ptr>source, nbytes)

    cdef int _make_current(self, int device_id) noexcept nogil:
        with gil:
            try:
                found = self.use(device_id)
                if not self.moved:
                    self.found = -1 if found is None else found
                self.current = device_id
                self.moved = True
            except ServerError as error:
                self.problem = error.message
            except BaseException as error:
                self.problem = type(error).__name__
        return 0 if self.current == device_id else NOT_CURRENT

    # After copies for one response: a model may have made the GPU current that its thread had.
    cdef int _go_back(self) except -1:
        cdef int before = self.found
        if self.moved and before >= 0 and before != self.current:
            self._make_current(before)
        self.moved = False
        return 0

    # cuMemcpy may return before what it writes on a GPU is there; only copies to the host are complete by then.
    cdef int _flush(self) noexcept nogil:
        if not self.written:
            return 0
        self.written = False
        self.lost = cuda_api().stream_synchronize(NULL) if cuda_api() != NULL else NO_DRIVER
        return self.lost

    # Everything written is there, and the thread has its own GPU back.
    cdef int _finish(self, ta_batch *batch) noexcept nogil:
        cdef int result
        self._flush()
        if self.lost != 0:
            with gil:
                self._fail(batch, "failed to wait for copies to GPU memory", self.lost)
            self.lost = 0
        if self.moved and self.home >= 0:
            result = self._make_current(self.home)
            self.moved = False
            if result != 0:
                with gil:
                    self._fail(batch, f"failed to return to GPU {self.home}", result)
        return 0

    cdef str _reason(self, int result):
        return self.problem if result == NOT_CURRENT else describe(result)

    cdef int _fail(self, ta_batch *batch, str what, int result) noexcept:
        text = f"{what}: {self._reason(result)}" if result else what
        shown = text.encode("utf-8", "replace")
        ta_batch_fail(batch, TA_CODE_INTERNAL, "%.1000s", <const char *>shown)
        return 0


cdef bint _on_device(const ta_tensor *tensor) noexcept nogil:
    cdef int i
    for i in range(tensor.n_segments):
        if tensor.segments[i].memory_type == MEMORY_GPU:
            return True
    return False


# Settles one output, whose placements begin at `place`; returns the first placement behind them.
cdef int _settle_output(Transfer transfer, ta_batch *batch, int index, int place) noexcept nogil:
    cdef ta_tensor *tensor = &batch.outputs[index]
    cdef ta_placement *placement
    cdef bint waiting = False
    cdef int64_t row_elements = 0
    cdef int64_t start = 0
    cdef int64_t end
    cdef int64_t row = 0
    cdef int last = place
    cdef int i
    while last < batch.n_placements and batch.placements[last].output == index:
        waiting = waiting or batch.placements[last].placed == TA_NOT_PLACED
        last += 1
    if not tensor.wanted or (
        waiting and tensor.parts == NULL and not _has_rows(batch, tensor, &batch.placements[place])
    ):
        return last
    # Strings of unknown lengths are cut into rows by the host.
    if tensor.memory_type == MEMORY_GPU and (tensor.wanted == TA_WANTED or (waiting and tensor.datatype == DT_BYTES)):
        if transfer._to_host(batch, index) < 0:
            return last
    if tensor.parts != NULL:
        split_output(batch, index)
        if batch.failed:
            return last
    elif waiting and batch.rows:
        row_elements = elements(tensor.dims, tensor.rank) // batch.rows
    for i in range(place, last):
        placement = &batch.placements[i]
        if placement.placed != TA_NOT_PLACED:
            continue
        if tensor.parts != NULL:
            start = tensor.parts[placement.request].start
            end = start + tensor.parts[placement.request].nbytes
        elif placement.rows == 0:
            start = 0
            end = tensor.nbytes
        elif tensor.datatype == DT_BYTES:
            start = ta_bytes_skip(tensor.data, tensor.nbytes, start, (placement.row - row) * row_elements)
            row = placement.row
            end = ta_bytes_skip(tensor.data, tensor.nbytes, start, placement.rows * row_elements)
        else:
            start = tensor.nbytes // batch.rows * placement.row
            end = start + tensor.nbytes // batch.rows * placement.rows
        transfer._place(batch, placement, start, end)
    return last


# Whether the rows that the placement asks for exist; `Batch.finish` refuses an output of other rows than the batch's.
cdef bint _has_rows(const ta_batch *batch, const ta_tensor *tensor, const ta_placement *placement) noexcept nogil:
    return placement.rows == 0 or (tensor.rank > 0 and tensor.dims[0] == batch.rows)


cdef str _input_text(ta_batch *c, int index, int device_id):
    cdef Batch batch = <Batch>c.owner
    name = (<TensorSpec>batch.signature.inputs[index]).name
    return f"failed to copy input '{name}' of model '{batch.signature.model_name}' from GPU {device_id}"


cdef str _output_text(ta_batch *c, int index, int device_id):
    cdef Batch batch = <Batch>c.owner
    name = (<TensorSpec>batch.signature.outputs[index]).name
    return f"failed to copy output '{name}' of model '{batch.signature.model_name}' from GPU {device_id}"


cdef str _strings_text(ta_batch *c, int index):
    cdef Batch batch = <Batch>c.owner
    name = (<TensorSpec>batch.signature.outputs[index]).name
    return f"output '{name}' of model '{batch.signature.model_name}' has broken string elements"


# Fails a batch whose BYTES input is not what was announced. Its request is the only one: such inputs share no batch.
cdef int _refuse_strings(ta_batch *c, int index) noexcept:
    cdef Batch batch = <Batch>c.owner
    cdef InferRequest request = <InferRequest>batch.requests[0]
    cdef Tensor sent = <Tensor>request.slots[index]
    cdef ta_tensor *tensor = &c.inputs[index]
    try:
        batch.signature.check_bytes(request, view_dims(
            sent.name, sent.datatype, sent.dims, sent.rank, sent.element_count,
            foreign(tensor.data, tensor.nbytes, NULL, NULL, MEMORY_CPU, 0), tensor.data, tensor.nbytes,
        ))
        code, message = TA_CODE_INTERNAL, f"input '{sent.name}' has broken string elements"
    except ServerError as error:
        code, message = error.code, error.message
    except Exception as error:
        code, message = TA_CODE_INTERNAL, type(error).__name__
    shown = message.encode("utf-8", "replace")
    ta_batch_fail(c, code, "%.1000s", <const char *>shown)
    return 0
