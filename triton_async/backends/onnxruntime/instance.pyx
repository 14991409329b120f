"""Instances: a batch is gathered, run by ONNX Runtime and its outputs handed over, all without the GIL.

`Run` into our own slabs is cheaper than IO binding and than outputs that the engine allocates:
bench/results/micro-onnxruntime.md.
"""

import logging

cimport cython
from libc.stdint cimport int32_t
from libc.stdlib cimport calloc, free

from triton_async.backends.base cimport ModelInstance
from triton_async.backends.onnxruntime.api cimport (
    ort_release_run_options,
    ort_release_status,
    ort_release_value,
    ort_run,
    ort_run_set_terminate,
    ort_run_unset_terminate,
    ort_status,
    ort_value,
    to_element_type,
)
from triton_async.backends.onnxruntime.device cimport DeviceInputs, is_aligned, on_device
from triton_async.backends.onnxruntime.session cimport Session
from triton_async.backends.onnxruntime.values cimport (
    SHAPE_KNOWN,
    SHAPE_NEVER,
    SHAPE_SEEN,
    SHAPE_UNKNOWN,
    Port,
    fail,
    is_other_shape,
    lease_output,
    place_output,
    set_release_table,
    take_output,
    untouched,
    wrap_input,
)
from triton_async.codes cimport TA_CODE_INTERNAL, TA_CODE_UNAVAILABLE
from triton_async.datatypes cimport DT_BYTES, itemsize
from triton_async.infer.batch cimport TA_NOT_PLACED, ta_batch, ta_placement, ta_tensor
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.gather cimport ta_batch_fail, ta_gather, ta_tensor_release
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.memory.buffer cimport MEMORY_CPU, MEMORY_GPU
from triton_async.memory.slab cimport SlabPool

from triton_async.errors import InternalError

log = logging.getLogger("triton_async.backends.onnxruntime")

cdef enum RunResult:
    RUN_DONE
    RUN_FAILED          # the batch is failed
    OUTPUTS_ELSEWHERE   # an output has not the shape it always had, or was not written where it was to go


# __dealloc__ uses the fields.
@cython.final
@cython.no_gc_clear
cdef class OnnxRuntimeInstance(ModelInstance):
    """An instance of the model in `session`, which fits `signature` (checked at load). Instance thread."""

    def __cinit__(self):
        pthread_mutex_init(&self.running_lock, NULL)

    def __init__(self, str name, Session session, ModelSignature signature, SlabPool pool):
        cdef int count = len(signature.inputs) + len(signature.outputs)
        ModelInstance.__init__(self, name)
        self.session = session
        self.pool = pool
        # A run on a GPU waits for it; one whose time a request decides may not hold up the loop.
        self.any_thread = session.device < 0 and session.bounded
        self.engine.api = session.library.api
        self.engine.memory_info = session.library.memory_info
        self.engine.device_info = session.device_info
        self.engine.allocator = session.library.allocator
        self.engine.pool = pool.pool
        self.run_options = session.make_run_options()
        set_release_table(session.library.api)
        self.n_inputs = len(signature.inputs)
        self.n_outputs = len(signature.outputs)
        self.ports = <Port *>calloc(count + 1, sizeof(Port))
        self.run_names = <const char **>calloc(count + 1, sizeof(char *))
        self.run_values = <ort_value **>calloc(count + 1, sizeof(ort_value *))
        self.order = <int32_t *>calloc(count + 1, sizeof(int32_t))
        if self.ports == NULL or self.run_names == NULL or self.run_values == NULL or self.order == NULL:
            raise MemoryError
        self.names = []
        model_io = session.model_io()
        tensors = {("input", tensor.name): tensor for tensor in model_io.inputs}
        tensors.update({("output", tensor.name): tensor for tensor in model_io.outputs})
        for index, spec in enumerate(signature.inputs):
            _describe(&self.ports[index], spec, tensors["input", spec.name], False, self.names)
        for index, spec in enumerate(signature.outputs, self.n_inputs):
            _describe(&self.ports[index], spec, tensors["output", spec.name], signature.max_batch_size > 0,
                      self.names)
        if session.device >= 0:
            self.device_inputs = _device_inputs(session, self.n_inputs)
            self.takes_device = self.device_inputs is not None

    def __dealloc__(self):
        if self.run_options != NULL:
            ort_release_run_options(self.engine.api, self.run_options)
        pthread_mutex_destroy(&self.running_lock)
        free(self.ports)
        free(self.run_names)
        free(self.run_values)
        free(self.order)

    def close(self):
        """Drops the session; it ends with its last instance and its LoadedModel."""
        if self.device_inputs is not None:
            self.device_inputs.close()
            self.device_inputs = None
        self.session = None

    cdef void execute(self, ta_batch *batch) noexcept nogil:
        cdef int n_inputs
        self._begin_run(batch)
        n_inputs = self._wrap_inputs(batch)
        batch.compute_input_end_ns = ta_now_ns()
        batch.compute_output_start_ns = batch.compute_input_end_ns
        if n_inputs >= 0:
            self._run(batch, n_inputs)
            self._release(0, n_inputs)
        self._end_run()
        batch.compute_end_ns = ta_now_ns()

    cdef void cancel(self, ta_batch *batch) noexcept nogil:
        cdef ort_status *status
        pthread_mutex_lock(&self.running_lock)
        if self.running == batch and not self.terminated:
            status = ort_run_set_terminate(self.engine.api, self.run_options)
            self.terminated = True
            if status != NULL:
                ort_release_status(self.engine.api, status)
        pthread_mutex_unlock(&self.running_lock)

    cdef void _begin_run(self, ta_batch *batch) noexcept nogil:
        pthread_mutex_lock(&self.running_lock)
        self.running = batch
        pthread_mutex_unlock(&self.running_lock)

    cdef void _end_run(self) noexcept nogil:
        cdef ort_status *status
        pthread_mutex_lock(&self.running_lock)
        self.running = NULL
        if self.terminated:
            status = ort_run_unset_terminate(self.engine.api, self.run_options)
            self.terminated = False
            if status != NULL:
                ort_release_status(self.engine.api, status)
        pthread_mutex_unlock(&self.running_lock)

    cdef bint _given_up(self) noexcept nogil:
        cdef bint terminated
        pthread_mutex_lock(&self.running_lock)
        terminated = self.terminated
        pthread_mutex_unlock(&self.running_lock)
        return terminated

    cdef int _gather(self, ta_batch *batch, int index) noexcept nogil:
        cdef ta_tensor *input = &batch.inputs[index]
        # What core has copied to the host, strings above all, has its `data` set.
        if self.takes_device and input.data == NULL and input.nbytes and on_device(input):
            return self.device_inputs.gather(batch, index)
        if ta_gather(input, self.engine.pool) < 0:
            ta_batch_fail(batch, TA_CODE_INTERNAL, "no memory to gather the inputs of a batch")
            return -1
        return 0

    # Number of inputs to run with, -1 when the batch failed and nothing is held.
    cdef int _wrap_inputs(self, ta_batch *batch) noexcept nogil:
        cdef int count = 0
        cdef int i
        for i in range(self.n_inputs):
            if not batch.inputs[i].wanted:
                continue
            self.run_values[count] = NULL
            if self._gather(batch, i) == 0 and wrap_input(&self.engine, &self.ports[i], batch, &batch.inputs[i],
                                                          &self.run_values[count]) == 0:
                self.run_names[count] = self.ports[i].name
                count += 1
                continue
            self._release(0, count + 1)
            return -1
        return count

    # Number of wanted outputs, entered behind room for all inputs; -1 when the batch failed.
    cdef int _wrap_outputs(self, ta_batch *batch) noexcept nogil:
        cdef int at = self.n_inputs
        cdef int placed
        cdef int i
        cdef Port *port
        cdef ta_placement *placement
        for i in range(self.n_outputs):
            if not batch.outputs[i].wanted:
                continue
            port = &self.ports[self.n_inputs + i]
            self.run_names[at] = port.name
            self.order[at] = i
            self.run_values[at] = NULL
            at += 1
            if port.shape != SHAPE_SEEN and port.shape != SHAPE_KNOWN:
                continue
            placement = self._placement(batch, i) if port.shape == SHAPE_KNOWN else NULL
            placed = 0 if placement == NULL else place_output(&self.engine, port, batch, &batch.outputs[i], placement,
                                                              &self.run_values[at - 1])
            if placed == 0:
                placed = lease_output(&self.engine, port, batch, &batch.outputs[i], &self.run_values[at - 1])
            if placed < 0:
                self._release(self.n_inputs, at)
                return -1
        return at - self.n_inputs

    # Where the session may write an output itself: a lone request wants it in a region on the session's GPU. Core
    # copies the others.
    cdef ta_placement *_placement(self, ta_batch *batch, int index) noexcept nogil:
        cdef ta_placement *placement
        cdef bint fits
        cdef int i
        if not self.takes_device or batch.n_requests > 1 or batch.outputs[index].parts != NULL:
            return NULL
        for i in range(batch.n_placements):
            placement = &batch.placements[i]
            if placement.output == index and placement.memory_type == MEMORY_GPU:
                fits = placement.device_id == self.session.device and is_aligned(placement.data)
                return placement if fits else NULL
        return NULL

    # Runs into leased memory, and once more with every output made by the engine when the outputs did not go there.
    cdef int _run(self, ta_batch *batch, int n_inputs) noexcept nogil:
        cdef int n_outputs = self._wrap_outputs(batch)
        cdef int result
        cdef int i
        if n_outputs <= 0:
            return n_outputs
        result = self._run_once(batch, n_inputs, n_outputs)
        if result == OUTPUTS_ELSEWHERE:
            self._take_back(batch, n_outputs)
            result = self._run_once(batch, n_inputs, n_outputs)
            if result == RUN_DONE:
                for i in range(self.n_inputs, self.n_inputs + self.n_outputs):
                    self.ports[i].shape = SHAPE_NEVER
        if result != RUN_DONE:
            self._take_back(batch, n_outputs)
            return -1
        return self._take_outputs(batch, n_outputs)

    # A RunResult. Only of a run that failed is the batch failed.
    cdef int _run_once(self, ta_batch *batch, int n_inputs, int n_outputs) noexcept nogil:
        cdef ort_status *status = ort_run(
            self.engine.api, self.session.session, self.run_options, self.run_names,
            <const ort_value **>self.run_values, n_inputs, self.run_names + self.n_inputs, n_outputs,
            self.run_values + self.n_inputs,
        )
        batch.compute_output_start_ns = ta_now_ns()
        if status == NULL:
            return RUN_DONE if self._written(batch, n_outputs) else OUTPUTS_ELSEWHERE
        if self._given_up():
            ort_release_status(self.engine.api, status)
            ta_batch_fail(batch, TA_CODE_UNAVAILABLE, "the execution was given up")
            return RUN_FAILED
        if self._leased(batch, n_outputs) and is_other_shape(&self.engine, status):
            ort_release_status(self.engine.api, status)
            return OUTPUTS_ELSEWHERE
        fail(&self.engine, batch, status)
        return RUN_FAILED

    # Whether the run was given memory for any output.
    cdef bint _leased(self, ta_batch *batch, int n_outputs) noexcept nogil:
        cdef ta_tensor *output
        cdef int i
        for i in range(self.n_inputs, self.n_inputs + n_outputs):
            output = &batch.outputs[self.order[i]]
            if output.owner != NULL or output.memory_type == MEMORY_GPU:
                return True
        return False

    # Whether the slabs of all leased outputs hold the outputs.
    cdef bint _written(self, ta_batch *batch, int n_outputs) noexcept nogil:
        cdef ta_tensor *output
        cdef Port *port
        cdef int i
        for i in range(self.n_inputs, self.n_inputs + n_outputs):
            output = &batch.outputs[self.order[i]]
            if output.owner == NULL:
                continue
            if untouched(output):
                return False
            port = &self.ports[self.n_inputs + self.order[i]]
            if port.shape == SHAPE_SEEN:
                port.shape = SHAPE_KNOWN
        return True

    # Gives back the memory that a run was given for its outputs.
    cdef void _take_back(self, ta_batch *batch, int n_outputs) noexcept nogil:
        cdef ta_tensor *output
        cdef int i
        for i in range(self.n_inputs, self.n_inputs + n_outputs):
            output = &batch.outputs[self.order[i]]
            ta_tensor_release(output)
            output.data = NULL
            output.memory_type = MEMORY_CPU
        for i in range(batch.n_placements):
            batch.placements[i].placed = TA_NOT_PLACED
        self._release(self.n_inputs, self.n_inputs + n_outputs)

    cdef int _take_outputs(self, ta_batch *batch, int n_outputs) noexcept nogil:
        cdef ort_value *value
        cdef ta_tensor *output
        cdef int i
        for i in range(self.n_inputs, self.n_inputs + n_outputs):
            output = &batch.outputs[self.order[i]]
            value = self.run_values[i]
            self.run_values[i] = NULL
            if output.owner != NULL or output.memory_type == MEMORY_GPU:
                # Written into the slab or the region: the value was only the way there.
                ort_release_value(self.engine.api, value)
                continue
            if take_output(&self.engine, &self.ports[self.n_inputs + self.order[i]], batch, output, value) < 0:
                self._release(i + 1, self.n_inputs + n_outputs)
                return -1
            if self.ports[self.n_inputs + self.order[i]].shape == SHAPE_UNKNOWN:
                self._learn(batch, self.order[i])
        return 0

    cdef void _learn(self, ta_batch *batch, int index) noexcept nogil:
        cdef Port *port = &self.ports[self.n_inputs + index]
        cdef ta_tensor *output = &batch.outputs[index]
        cdef int i
        port.shape = SHAPE_NEVER
        if output.rank != port.rank:
            return
        for i in range(port.rank):
            if output.dims[i] != (batch.rows if port.dims[i] < 0 else port.dims[i]):
                return
        port.shape = SHAPE_SEEN

    cdef void _release(self, int first, int end) noexcept nogil:
        cdef int i
        for i in range(first, end):
            if self.run_values[i] != NULL:
                ort_release_value(self.engine.api, self.run_values[i])
                self.run_values[i] = NULL


# None when the engine lends no memory of its GPU: core then brings inputs from there to the host, which is slower.
cdef DeviceInputs _device_inputs(Session session, int count):
    try:
        return DeviceInputs(session, count)
    except InternalError as error:
        log.warning("inputs in memory of GPU %d go through the host: %s", session.device, error.message)
        return None


cdef int _describe(Port *port, TensorSpec spec, tensor, bint batching, list names) except -1:
    cdef bytes name = spec.name.encode()
    cdef tuple dims = tensor.dims
    cdef int i
    names.append(name)
    port.name = name
    port.datatype = spec.datatype
    port.itemsize = itemsize(spec.datatype)
    port.element_type = to_element_type(spec.datatype)
    port.scalar = not dims and not tensor.unranked
    if not dims:
        # The config gives a scalar as many dims of 1 as it likes.
        dims = spec.dims if spec.reshape is None else spec.reshape
    port.rank = len(dims)
    for i in range(port.rank):
        port.dims[i] = dims[i]
    fixed = dims[1:] if batching else dims
    port.shape = (SHAPE_NEVER if port.datatype == DT_BYTES or -1 in fixed or tensor.unranked else SHAPE_UNKNOWN)
    return 0
