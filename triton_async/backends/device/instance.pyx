"""One instance on a GPU: brings batches to the device, has the engine run them, brings outputs back, all at once.

Two slots, three streams: while one batch computes, the next one's inputs arrive and the last one's outputs leave. The
instance thread issues, a thread beside it completes; the GIL is taken once per batch, for the engine, and not at all
when a captured graph runs.
"""

import logging
import threading

cimport cython
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free

from triton_async.backends.base cimport ModelInstance, fail_batch
from triton_async.backends.device.captures cimport capture, drop
from triton_async.backends.device.copies cimport NO_HOST_MEMORY, Output, copy_in, copy_out, read_to_host
from triton_async.backends.device.slots cimport (
    Graph,
    Slot,
    find_graph,
    free_slot,
    make_slot,
    sem_destroy,
    sem_init,
    sem_post,
    sem_trywait,
    set_output,
    take,
)
from triton_async.codes cimport TA_CODE_INTERNAL
from triton_async.datatypes cimport DT_BYTES, itemsize
from triton_async.infer.batch cimport ta_batch, ta_segment, ta_tensor
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.gather cimport ta_batch_fail
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.memory.buffer cimport MEMORY_GPU, Buffer
from triton_async.memory.cuda cimport (
    cuda_api,
    error_lasts,
    ta_cuda_describe,
    ta_cuda_event,
    ta_cuda_function,
    ta_cuda_stream,
    ta_device_ptr,
)
from triton_async.memory.device cimport DevicePool
from triton_async.memory.slab cimport SlabPool

from triton_async.backends.device.direct import DirectMemory
from triton_async.backends.device.engine import DeviceTensor
from triton_async.backends.device.graphs import graph_shapes
from triton_async.backends.device.kernels import gather_kernel
from triton_async.backends.device.options import stream_priority
from triton_async.defines import DEVICE_ALIGNMENT, DEVICE_SLOTS
from triton_async.errors import InternalError, ServerError, Unsupported

log = logging.getLogger("triton_async.device")

assert DEVICE_SLOTS == SLOTS

cdef enum:
    IN_PLACE_ALIGNMENT = 16  # kernels read so many bytes at once


@cython.final
cdef class DeviceInstance(ModelInstance):
    """An instance of the model of `signature` on GPU `device`. Owns `engine` from the call on, also when it raises.

    `pool`: host slabs; `pinned_pool`: pinned ones, used where the options do not say otherwise.
    `memory`: where slots lease their input buffers, the driver by default; if it is a DevicePool, outputs that may stay
    on the device are put there too. Made on the instance's thread.

    Raises Unsupported for a model with BYTES tensors, InternalError with CUDA's text, MemoryError.
    """

    def __init__(self, str name, engine, ModelSignature signature, devices, int32_t device, options, SlabPool pool, *,
                 SlabPool pinned_pool=None, memory=None):
        ModelInstance.__init__(self, name)
        self.takes_device = True
        self.depth = SLOTS
        self.engine = engine
        self.devices = devices
        self.device = device
        self.options = options
        self.signature = signature
        self.memory = DirectMemory(devices, device) if memory is None else memory
        self.pools = [pool, pinned_pool or pool]
        self.n_inputs = len(signature.inputs)
        self.n_outputs = len(signature.outputs)
        self.events = []
        self.buffers = [[None] * self.n_inputs for _ in range(SLOTS)]
        try:
            _refuse_bytes(signature)
            self._make()
        except BaseException:
            self.close()
            raise

    @property
    def graph_count(self):
        """Captured graphs, of all slots."""
        return sum([self.slots[i].n_graphs for i in range(SLOTS)])

    def close(self):
        """Frees everything, the engine included; what fails is logged and left. No batch is out. May be called twice.
        """
        cdef int i
        if self.thread is not None:
            self.slots[self.finished % SLOTS].batch = NULL
            sem_post(&self.issued)
            self.thread.join()
            self.thread = None
        for i in range(SLOTS):
            self._try("graphs", self._drop_graphs, i)
        self.buffers = [[None] * self.n_inputs for _ in range(SLOTS)]
        if self.engine is not None:
            self._try("the engine", self.engine.close)
            self.engine = None
        for event in self.events:
            self._try("an event", self.devices.destroy_event, event)
        self.events = []
        for stream in (<size_t>self.copy_in_stream, <size_t>self.run_stream, <size_t>self.copy_out_stream):
            if stream:
                self._try("a stream", self.devices.destroy_stream, stream)
        self.copy_in_stream = self.run_stream = self.copy_out_stream = NULL

    def __dealloc__(self):
        cdef int i
        for i in range(SLOTS):
            free_slot(&self.slots[i])
        if self.issued_made:
            sem_destroy(&self.issued)
        free(self.on_host)

    def _try(self, what, call, *arguments):
        try:
            call(*arguments)
        except Exception as error:
            log.warning("instance '%s' could not free %s: %s", self.name, what, error)

    # -- making ----------------------------------------------------------------------------------------

    def _make(self):
        cdef int i
        self.devices.use(self.device)
        self.cuda = cuda_api()
        if self.cuda == NULL:
            raise InternalError("the NVIDIA driver is not loaded")
        self.on_host = <bint *>calloc(self.n_inputs + 1, sizeof(bint))
        if self.on_host == NULL or sem_init(&self.issued, 0, 0) != 0:
            raise MemoryError
        self.issued_made = True
        for i in self.engine.host_inputs:
            self.on_host[i] = True
        self.in_place = self.engine.reads_in_place
        self._set_copies()
        least, most_urgent = self.devices.stream_priorities(self.device)
        priority = stream_priority(self.options.priority, least, most_urgent)
        self.copy_in_stream = <ta_cuda_stream><size_t>self.devices.create_stream(self.device, priority)
        self.run_stream = <ta_cuda_stream><size_t>self.devices.create_stream(self.device, priority)
        self.copy_out_stream = <ta_cuda_stream><size_t>self.devices.create_stream(self.device, priority)
        for i in range(COPIED_EVENTS):
            self.copied[i] = self._event(True)
        self._choose_graphs()
        for i in range(SLOTS):
            self._make_slot(i)
        if self.broken:
            raise InternalError(f"GPU {self.device} can run nothing more, see the log of the server")
        self._start_thread()

    def _set_copies(self):
        cdef SlabPool pool = self.pools[0]
        cdef SlabPool pinned = self.pools[1]
        cdef bint pin_inputs = pinned is not pool and self.options.pin_inputs
        cdef bint pin_outputs = pinned is not pool and self.options.pin_outputs
        self.copies.cuda = self.cuda
        self.copies.device = self.device
        self.copies.stage_pageable = pin_inputs
        self.copies.staging = pinned.pool if pin_inputs else pool.pool
        self.copies.outputs = pinned.pool if pin_outputs else pool.pool
        if isinstance(self.memory, DevicePool):
            self.copies.device_outputs = (<DevicePool>self.memory).c
        if self.options.gather_threshold > 0 and pin_inputs:
            self.copies.gather_threshold = self.options.gather_threshold
            self.copies.gather_kernel = <ta_cuda_function><size_t>gather_kernel(self.devices, self.device)

    cdef ta_cuda_event _event(self, bint timing) except NULL:
        cdef size_t event = self.devices.create_event(self.device, timing, self.options.busy_wait)
        self.events.append(event)
        return <ta_cuda_event>event

    def _choose_graphs(self):
        defaults = []
        for index, spec in enumerate(self.signature.inputs):
            dims = spec.dims if spec.reshape is None else spec.reshape
            own = self.engine.graph_dims(index)
            defaults.append(own if own is not None or -1 in dims else dims)
        self.shapes = graph_shapes(self.options, [spec.name for spec in self.signature.inputs], defaults,
                                   self.signature.max_batch_size)
        if self.options.graphs and (not self.engine.capturable or self.engine.host_inputs):
            log.warning("instance '%s' runs without CUDA graphs: its engine can not be captured", self.name)
            self.shapes = ()
        elif self.options.graphs and not self.shapes:
            log.warning("instance '%s' runs without CUDA graphs: name the dims of its inputs in graph_spec", self.name)

    def _make_slot(self, int index):
        cdef Slot *slot = &self.slots[index]
        cdef int i
        make_slot(slot, self.n_inputs, self.n_outputs)
        slot.ran = self._event(False)
        slot.ran_at = self._event(True)
        slot.done = self._event(True)
        if self.engine.records_consumed():
            slot.own_consumed = self._event(False)
        for i in range(self.n_inputs):
            if not self.on_host[i]:
                self._reserve(index, i, max(self.engine.input_capacity(i), self._largest(i), 1))
        self._capture_all(index)

    # Bytes of input `index` in the largest batch, as far as its dims are fixed, and in the largest graph.
    def _largest(self, int index):
        cdef TensorSpec spec = self.signature.inputs[index]
        dims = spec.dims if spec.reshape is None else spec.reshape
        size = itemsize(spec.datatype)
        sizes = [0 if -1 in dims else _product(dims) * max(self.signature.max_batch_size, 1)]
        sizes += [_product(shape.dims[index]) * max(shape.rows, 1) for shape in self.shapes]
        return max(sizes) * size

    def _reserve(self, int index, int i, int64_t nbytes):
        cdef Buffer buffer
        nbytes = (nbytes + <int64_t>DEVICE_ALIGNMENT - 1) // <int64_t>DEVICE_ALIGNMENT * <int64_t>DEVICE_ALIGNMENT
        buffer = self.memory.acquire(nbytes)  # the old one, if any, stays when there is no memory
        self.buffers[index][i] = buffer
        self.slots[index].inputs[i] = <ta_device_ptr>buffer.data
        self.slots[index].capacities[i] = nbytes

    def _start_thread(self):
        started = threading.Event()
        trouble = []
        self.thread = threading.Thread(target=self._complete_main, args=(started, trouble),
                                       name=f"completion {self.name}", daemon=True)
        try:
            self.thread.start()
        except RuntimeError:
            self.thread = None
            raise InternalError(f"the completion thread of instance '{self.name}' could not be started") from None
        started.wait()
        if trouble:
            self.thread.join()
            self.thread = None
            raise trouble.pop()

    # -- graphs ----------------------------------------------------------------------------------------

    def _capture_all(self, int index):
        for shape in self.shapes:
            try:
                capture(&self.slots[index], index, shape, self.engine, self.devices, self.signature, self.run_stream)
            except Exception as error:
                log.warning("instance '%s' could not capture a CUDA graph for batch size %d: %s", self.name,
                            shape.rows, error.message if isinstance(error, ServerError) else repr(error))
                self._note(self.cuda.stream_synchronize(self.run_stream))
                self._ask_engine()

    def _drop_graphs(self, int index):
        if self.shapes and self.engine is not None:
            drop(&self.slots[index], index, self.engine, self.devices)

    # -- issuing ---------------------------------------------------------------------------------------

    cdef int submit(self, ta_batch *batch) noexcept nogil:
        cdef int index = self.submitted % SLOTS
        cdef Slot *slot = &self.slots[index]
        cdef ta_cuda_event copied = self.copied[self.submitted % COPIED_EVENTS]
        cdef const Graph *graph
        cdef bint owned = self._claim(slot)
        cdef int result = 0
        self.submitted += 1
        batch.compute_start_ns = ta_now_ns()
        if not owned and not self._fits(slot, batch):
            take(&slot.free)
            owned = True
        if not self._fits(slot, batch):
            with gil:
                result = self._grow(index, batch)
        graph = find_graph(slot, batch) if result == 0 else NULL
        if result == 0:
            result = self._copy_inputs(slot, batch, graph, copied)
        batch.compute_input_end_ns = ta_now_ns()
        if not owned:
            take(&slot.free)
        slot.batch = batch
        slot.copied = copied
        slot.consumed = NULL
        slot.n_late = 0
        if result == 0 and self._run(index, slot, batch, graph) == 0:
            self._copy_outputs(slot, batch)
        sem_post(&self.issued)
        return 0

    # Waits until the inputs of the slot may be overwritten; whether the whole slot is free, and now taken.
    cdef bint _claim(self, Slot *slot) noexcept nogil:
        if sem_trywait(&slot.free) == 0:
            return True
        if slot.consumed != NULL and self.cuda.event_synchronize(slot.consumed) == 0:
            return False
        take(&slot.free)
        return True

    cdef bint _lies_well(self, const ta_tensor *input) noexcept nogil:
        cdef const ta_segment *segment = input.segments
        return (self.in_place and input.n_segments == 1 and segment.memory_type == MEMORY_GPU
                and segment.device_id == self.device and <size_t>segment.data % IN_PLACE_ALIGNMENT == 0)

    cdef bint _fits(self, const Slot *slot, const ta_batch *batch) noexcept nogil:
        cdef int i
        for i in range(self.n_inputs):
            if batch.inputs[i].nbytes > slot.capacities[i] and not self.on_host[i]:
                return False
        return True

    # Larger input buffers for a free slot; its graphs, which use the old ones, are captured again.
    cdef int _grow(self, int index, ta_batch *batch) noexcept:
        cdef Slot *slot = &self.slots[index]
        cdef int i
        try:
            for i in range(self.n_inputs):
                if batch.inputs[i].nbytes > slot.capacities[i] and not self.on_host[i]:
                    self._drop_graphs(index)
                    self._reserve(index, i, max(batch.inputs[i].nbytes, slot.capacities[i] * 3 // 2))
        except MemoryError as error:
            fail_batch(batch, InternalError(f"GPU {self.device} has no memory for the inputs of a batch: {error}"))
        except BaseException as error:
            fail_batch(batch, error)
        if self.shapes and slot.n_graphs == 0:
            # Nobody may wait for the stream while it captures, as the completion thread does for a batch that failed.
            self._wait_for_others(index)
            self._capture_all(index)
        return -1 if batch.failed else 0

    cdef void _wait_for_others(self, int index) noexcept:
        cdef int i
        with nogil:
            for i in range(SLOTS):
                if i != index:
                    take(&self.slots[i].free)
                    sem_post(&self.slots[i].free)

    cdef int _copy_inputs(self, Slot *slot, ta_batch *batch, const Graph *graph, ta_cuda_event copied) noexcept nogil:
        cdef ta_tensor *input
        cdef int result = 0
        cdef int i
        for i in range(self.n_inputs):
            input = &batch.inputs[i]
            if not input.wanted:
                continue
            if self.on_host[i]:
                result = read_to_host(&self.copies, input)
            elif graph != NULL or not self._lies_well(input):
                result = copy_in(&self.copies, input, slot.inputs[i], self.copy_in_stream)
                if result == 0 and graph != NULL and graph.nbytes[i] > input.nbytes:
                    # Rows that nobody sent must not be those of an earlier request.
                    result = self.cuda.memset_async(slot.inputs[i] + <ta_device_ptr>input.nbytes, 0,
                                                    graph.nbytes[i] - input.nbytes, self.copy_in_stream)
            if result:
                break
        if result == 0:
            result = self.cuda.event_record(copied, self.copy_in_stream)
        if result:
            self._fail(batch, result, "copying the inputs of a batch")
            return -1
        return 0

    cdef int _run(self, int index, Slot *slot, ta_batch *batch, const Graph *graph) noexcept nogil:
        cdef int result = self.cuda.stream_wait_event(self.run_stream, slot.copied, 0)
        if result == 0:
            if graph != NULL:
                result = self._run_graph(slot, batch, graph)
            else:
                with gil:
                    if self._enqueue(index, slot, batch) < 0:
                        return -1
        if result == 0:
            result = self.cuda.event_record(slot.ran, self.run_stream)
        if result:
            self._fail(batch, result, "running a batch")
            return -1
        slot.consumed = slot.ran if graph != NULL or slot.own_consumed == NULL else slot.own_consumed
        return 0

    cdef int _run_graph(self, Slot *slot, const ta_batch *batch, const Graph *graph) noexcept nogil:
        cdef Output *output
        cdef int i
        for i in range(self.n_outputs):
            output = &slot.outputs[i]
            output[0] = graph.outputs[i]
            if output.rank > 0 and output.dims[0] == graph.rows > batch.rows:
                output.nbytes = output.nbytes // graph.rows * batch.rows
                output.dims[0] = batch.rows
        return self.cuda.graph_launch(graph.handle, self.run_stream)

    # With the GIL.
    cdef int _enqueue(self, int index, Slot *slot, ta_batch *batch) noexcept:
        cdef ta_tensor *c
        cdef size_t address
        cdef int i, j
        try:
            inputs = []
            for i in range(self.n_inputs):
                c = &batch.inputs[i]
                if not c.wanted:
                    inputs.append(None)
                    continue
                if self.on_host[i]:
                    address = <size_t>c.data
                else:
                    address = <size_t>(c.segments.data if self._lies_well(c) else <const char *>slot.inputs[i])
                inputs.append(DeviceTensor(address, tuple([c.dims[j] for j in range(c.rank)]), c.nbytes))
            outputs = self.engine.enqueue(index, inputs, <size_t>self.run_stream,
                                          <size_t>(slot.own_consumed or slot.ran))
            if len(outputs) != self.n_outputs:
                raise InternalError(f"model '{self.signature.model_name}' produced {len(outputs)} outputs instead of "
                                    f"the {self.n_outputs} of its configuration")
            for i, output in enumerate(outputs):
                if output is not None:
                    set_output(&slot.outputs[i], output)
                elif batch.outputs[i].wanted:
                    slot.outputs[i].late = True
                    slot.n_late += 1
        except BaseException as error:
            fail_batch(batch, error)
            self._note(self.cuda.event_query(slot.copied))
            self._ask_engine()
            return -1
        return 0

    cdef int _copy_outputs(self, Slot *slot, ta_batch *batch) noexcept nogil:
        cdef int result = self.cuda.stream_wait_event(self.copy_out_stream, slot.ran, 0)
        cdef int i
        if result == 0:
            result = self.cuda.event_record(slot.ran_at, self.copy_out_stream)
        for i in range(self.n_outputs):
            if result:
                break
            if batch.outputs[i].wanted and not slot.outputs[i].late:
                result = copy_out(&self.copies, batch, i, &slot.outputs[i], self.copy_out_stream)
        if result == 0:
            result = self.cuda.event_record(slot.done, self.copy_out_stream)
        if result:
            self._fail(batch, result, "copying the outputs of a batch")
            return -1
        return 0

    cdef void drain(self) noexcept nogil:
        cdef int i
        for i in range(SLOTS):
            take(&self.slots[i].free)
        for i in range(SLOTS):
            sem_post(&self.slots[i].free)

    # -- completing ------------------------------------------------------------------------------------

    def _complete_main(self, started, trouble):
        try:
            self.devices.use(self.device)
        except Exception as error:
            trouble.append(error)
            return
        finally:
            started.set()
        with nogil:
            self._complete_all()

    cdef void _complete_all(self) noexcept nogil:
        cdef Slot *slot
        cdef ta_batch *batch
        cdef int index
        while True:
            take(&self.issued)
            index = self.finished % SLOTS
            slot = &self.slots[index]
            batch = slot.batch
            if batch == NULL:
                return
            self._complete(index, slot, batch)
            slot.batch = NULL
            self.finished += 1
            self.completed(batch)
            sem_post(&slot.free)

    cdef void _complete(self, int index, Slot *slot, ta_batch *batch) noexcept nogil:
        cdef int result
        cdef int64_t end_ns
        if not batch.failed:
            result = self.cuda.event_synchronize(slot.done)
            end_ns = ta_now_ns()
            if result:
                self._fail(batch, result, "running a batch")
            else:
                self._read_times(slot, batch, end_ns)
                if slot.n_late:
                    with gil:
                        self._late_outputs(index, slot, batch)
                    batch.compute_end_ns = ta_now_ns()
        if batch.failed:
            # What was issued before it failed may still use the memory of the requests and of the slot.
            self._note(self.cuda.stream_synchronize(self.copy_in_stream))
            self._note(self.cuda.stream_synchronize(self.run_stream))
            self._note(self.cuda.stream_synchronize(self.copy_out_stream))

    # From CUDA's events, counted back from the end, which the host's clock gives. A batch that waits for the one
    # before it to leave the GPU does not compute yet.
    cdef void _read_times(self, const Slot *slot, ta_batch *batch, int64_t end_ns) noexcept nogil:
        cdef float ms = 0
        cdef int64_t input_ns = batch.compute_input_end_ns
        cdef int64_t output_ns = end_ns
        cdef int result = self.cuda.event_elapsed_ms(&ms, slot.ran_at, slot.done)
        if result == 0:
            output_ns = end_ns - <int64_t>(ms * 1e6)
            result = self.cuda.event_elapsed_ms(&ms, slot.copied, slot.done)
        self._note(result)
        if result == 0:
            input_ns = end_ns - <int64_t>(ms * 1e6)
        input_ns = max(input_ns, max(self.last_ran_ns, batch.compute_start_ns))
        output_ns = max(output_ns, batch.compute_start_ns)
        batch.compute_end_ns = end_ns
        batch.compute_output_start_ns = output_ns
        batch.compute_input_end_ns = min(input_ns, output_ns)
        self.last_ran_ns = output_ns

    # With the GIL.
    cdef int _late_outputs(self, int index, Slot *slot, ta_batch *batch) noexcept:
        cdef int i
        cdef int result
        try:
            for i in range(self.n_outputs):
                if not slot.outputs[i].late or not batch.outputs[i].wanted:
                    continue
                set_output(&slot.outputs[i], self.engine.late_output(index, i))
                with nogil:
                    result = copy_out(&self.copies, batch, i, &slot.outputs[i], NULL)
                    # cuMemcpy may return while a copy within the GPU is under way.
                    result = self.cuda.stream_synchronize(NULL) or result
                if result:
                    self._fail(batch, result, "copying the outputs of a batch")
                    return -1
        except BaseException as error:
            fail_batch(batch, error)
            self._ask_engine()
        return 0

    # -- errors ----------------------------------------------------------------------------------------

    cdef void _fail(self, ta_batch *batch, int result, const char *doing) noexcept nogil:
        cdef char[256] text
        self._note(result)
        if result == NO_HOST_MEMORY:
            ta_batch_fail(batch, TA_CODE_INTERNAL, "%s failed: no host memory", doing)
            return
        ta_cuda_describe(self.cuda, result, text, sizeof(text))
        ta_batch_fail(batch, TA_CODE_INTERNAL, "%s on GPU %d failed: %s", doing, self.device, text)

    cdef void _note(self, int result) noexcept nogil:
        if error_lasts(result):
            self.broken = True

    def _ask_engine(self):
        if self.engine.broken:
            self.broken = True


def _product(dims):
    product = 1
    for dim in dims:
        product *= dim
    return product


def _refuse_bytes(signature):
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if spec.datatype == DT_BYTES:
                raise Unsupported(f"unable to load model '{signature.model_name}': {kind} '{spec.name}' has data-type "
                                  "BYTES, which a GPU can not hold")
