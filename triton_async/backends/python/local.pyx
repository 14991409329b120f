"""The channel of Python models that run in the server process. Any thread with the GIL."""

cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from triton_async.datatypes cimport DT_BYTES, elements, itemsize
from triton_async.datatypes cimport nbytes as size_of
from triton_async.backends.python.dlpack cimport make_capsule, take_capsule
from triton_async.infer.batch cimport asks_for
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.factory cimport ResponseFactory
from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor, view_dims
from triton_async.infer.transfer cimport Transfer
from triton_async.memory.buffer cimport MEMORY_GPU, Buffer, wrap
from triton_async.memory.slab cimport SlabPool

import logging
from asyncio import _get_running_loop
from contextvars import ContextVar

import numpy as np

from triton_async import datatypes
from triton_async.backends.base import InferenceCall
from triton_async.backends.python.worker import calls, messages, tensors
from triton_async.backends.python.worker.channel import Channel, Refused
from triton_async.backends.python.worker.runner import unanswered
from triton_async.defines import PYTHON_COPY_NBYTES
from triton_async.errors import Code, DecoupledModel, InternalError, ServerError, from_code
from triton_async.infer.tensor import decode_bytes

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *o)

# The InferRequests for whose sake a model runs just now, in a thread or a task: what it asks of others is for them.
# Tasks take it along from the execution that starts them; requests leave it when they are answered.
ASKERS = ContextVar("askers", default=None)

log = logging.getLogger("triton_async.python")

# By worker.channel's numbers.
cdef tuple _LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.DEBUG)

cdef int64_t COPY_NBYTES = PYTHON_COPY_NBYTES

cdef tuple _DTYPES = tuple(
    [None] + [np.dtype(datatypes.numpy_dtype(number)) for number in range(1, len(datatypes.NAMES))]
)
cdef dict _NUMBERS = {name: number for number, name in enumerate(datatypes.NAMES) if number}
cdef object _ndarray = np.ndarray
cdef object _from_source = tensors.from_source
cdef object _InferenceResponse = messages.InferenceResponse
cdef object _TritonError = messages.TritonError
cdef object _ErrorCode = messages.ErrorCode
cdef object _GPU = messages.MemoryType.TRITONSERVER_MEMORY_GPU


@cython.final
cdef class LocalTensor:
    """A tensor that came from the server, for `api.Tensor`."""

    @property
    def datatype(self):
        return datatypes.NAMES[self.tensor.datatype]

    @property
    def shape(self):
        return self.tensor.shape

    @property
    def gpu(self):
        cdef Buffer buffer = self.tensor.buffer
        return buffer.device_id if buffer is not None and buffer.memory_type == MEMORY_GPU else None

    def dlpack(self):
        return make_capsule(self.tensor)

    def array(self):
        cdef Tensor tensor = self.tensor
        cdef tuple shape = tensor.shape
        if self.gpu is not None:
            raise tensors.TritonModelException("Tensor is stored in GPU and cannot be converted to NumPy.")
        cdef int size = itemsize(tensor.datatype)
        if tensor.datatype == DT_BYTES:
            return tensors.object_array(decode_bytes(tensor), shape)
        dtype = _DTYPES[tensor.datatype]
        if tensor.nbytes != size_of(tensor.element_count, tensor.datatype):
            raise ValueError(f"{tensor.nbytes} bytes for {tensor.element_count} elements")
        if tensor.nbytes == 0:
            return np.empty(shape, dtype)
        if tensor.nbytes < COPY_NBYTES or tensor.buffer.readonly or <size_t>tensor.data % size:
            return _ndarray(shape, dtype, bytearray(tensor.data[:tensor.nbytes]))
        return _ndarray(shape, dtype, tensor.buffer, tensor.data - tensor.buffer.data)


cdef LocalTensor _local(Tensor tensor):
    cdef LocalTensor made = LocalTensor.__new__(LocalTensor)
    made.tensor = tensor
    return made


def _take_gpu_capsule(name, capsule):
    return _local(take_capsule(name, capsule))


tensors.take_gpu_capsule = _take_gpu_capsule


# __dealloc__ uses the fields.
@cython.final
@cython.no_gc_clear
cdef class IncomingRequest:
    """A request that an instance has, for `api.InferenceRequest`."""

    def __dealloc__(self):
        cdef ModelSignature signature
        if self.factory is not None and not self.factory.finished:
            # Nothing of the model: in a cycle with it, the garbage collector may have cleared that by now.
            signature = self.factory.signature
            text = unanswered(signature.decoupled, signature.model_name, self.instance, self.sent)
            self.factory.send([], None, InternalError(text), True)

    @property
    def id(self):
        return self.request.id

    @property
    def correlation_id(self):
        return self.request.sequence_id

    @property
    def timeout(self):
        return self.request.timeout_us

    @property
    def parameters(self):
        return self.request.parameters

    @property
    def trace_context(self):
        return None if self.request.trace is None else self.request.trace.context()

    @property
    def output_names(self):
        cdef RequestedOutput output
        cdef TensorSpec spec
        if self.request.outputs:
            return [output.name for output in self.request.outputs]
        return [spec.name for spec in self.factory.signature.client_outputs]

    def inputs(self):
        cdef ModelSignature signature = self.factory.signature
        cdef list found = []
        cdef TensorSpec spec
        cdef Tensor sent
        for spec in signature.inputs[len(signature.client_inputs):]:
            found.append((spec.name, _local(<Tensor>self.tensors[spec.index])))
        for sent in self.request.inputs:
            spec = <TensorSpec>signature.input_by_name[sent.name]
            found.append((sent.name, _local(engine_view(signature, spec, <Tensor>self.tensors[spec.index]))))
        return found


cdef Tensor engine_view(ModelSignature signature, TensorSpec spec, Tensor tensor):
    cdef int64_t[16] dims
    cdef int rank
    if spec.reshape is None:
        return tensor
    rank = spec.engine_dims(tensor.dims, tensor.rank, signature.max_batch_size > 0, dims)
    return view_dims(tensor.name, tensor.datatype, dims, rank, tensor.element_count, tensor.buffer, tensor.data,
                     tensor.nbytes)


cdef Tensor client_view(ModelSignature signature, TensorSpec spec, Tensor tensor):
    cdef int64_t[16] dims
    cdef int rank
    if spec.reshape is None:
        return tensor
    rank = spec.client_dims(tensor.dims, tensor.rank, signature.max_batch_size > 0, dims)
    if rank < 0 or elements(dims, rank) != tensor.element_count:
        raise InternalError(f"output '{spec.name}' of model '{signature.model_name}' has the shape "
                            f"{list(tensor.shape)}, which its reshape does not allow")
    return view_dims(tensor.name, tensor.datatype, dims, rank, tensor.element_count, tensor.buffer, tensor.data,
                     tensor.nbytes)


cdef IncomingRequest incoming(ResponseFactory factory, str instance):
    """The request that `factory` answers."""
    cdef IncomingRequest request = IncomingRequest.__new__(IncomingRequest)
    request.factory = factory
    request.request = factory.request
    request.tensors = factory.inputs
    request.instance = instance
    request.flags = factory.request.flags
    request.release_flags = 1  # TRITONSERVER_REQUEST_RELEASE_ALL
    return request


@cython.final
cdef class LocalChannel:
    """See worker.channel.Channel. `inference`: the server's InferenceService, None without a server. `reschedules`: the
    model may have requests run once more."""

    def __init__(self, ModelSignature signature, SlabPool pool, inference, metrics, bint reschedules=False):
        self.reschedules = reschedules
        self.signature = signature
        self.pool = pool
        self.inference = inference
        self.metrics = metrics
        self.handles = set()

    def close(self):
        """Gives up the metrics that the model has left."""
        handles, self.handles = self.handles, set()
        for handle in handles:
            handle.drop()
        self.instance = None

    # -- requests ----------------------------------------------------------------------------------

    def returned(self):
        if self.answered_ns == 0:
            self.answered_ns = ta_now_ns()
        self.holds = True

    def respond(self, IncomingRequest request, response, bint final):
        self._send(request, response, final, False)

    def respond_last(self, IncomingRequest request, list responses):
        # Not a variable of a caller's, whose references would be counted with it.
        cdef object response = responses.pop()
        self._send(request, response, True, Py_REFCNT(<PyObject *>response) <= 1)

    cdef int _send(self, IncomingRequest request, object response, bint final, bint lone) except -1:
        cdef ResponseFactory factory = request.factory
        cdef object error
        if self.answered_ns == 0:
            self.answered_ns = ta_now_ns()
        if final and request.askers is not None:
            request.askers.remove(request.request)
            request.askers = None
        if response is None:
            return factory.send_taken([], None, final)
        error = response._error
        if error is not None:
            return factory.send([], None, from_code(error._code, error._message), final)
        try:
            outputs = self._outputs(request, response, lone)
            return factory.send_taken(outputs, response._parameters, final)
        except ServerError as problem:
            raise Refused(problem.code, problem.message) from None

    def release(self, IncomingRequest request, bint reschedule=False):
        if reschedule and self.reschedules:
            if request.askers is not None:
                request.askers.remove(request.request)
                request.askers = None
            request.factory.reschedule()
            return
        if reschedule:
            raise Refused(<int>Code.INVALID_ARG, "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, "
                          "while the model is not configured to handle such a flag.")
        request.factory.release()

    def is_cancelled(self, IncomingRequest request):
        return request.request.cancelled

    def congested(self, IncomingRequest request):
        return request.factory.congested

    def wait_for_relief(self, IncomingRequest request):
        request.factory.wait()

    # What is wanted of a response, in its order.
    cdef list _outputs(self, IncomingRequest request, object response, bint lone):
        cdef list given = response._outputs
        cdef list taken = []
        cdef dict specs = self.signature.output_by_name
        cdef TensorSpec spec
        cdef Tensor other
        cdef Tensor sent
        cdef object tensor
        cdef object name
        # Counted: the owner's reference and ours. With any more the model has it, too.
        lone = lone and Py_REFCNT(<PyObject *>given) <= 2
        for tensor in given:
            name = tensor._name
            spec = <TensorSpec>specs.get(name)
            if spec is None:
                continue
            for other in taken:
                if other.name == name:
                    raise InternalError(f"model '{self.signature.model_name}' gave output '{name}' more than once")
            if asks_for(request.request, spec):
                sent = self._output(spec, tensor, lone and Py_REFCNT(<PyObject *>tensor) <= 2)
                if sent.buffer is not None and sent.buffer.memory_type == MEMORY_GPU:
                    sent = self._mover().brought(request.request, sent)
                taken.append(sent)
        return taken

    # For copies of one call: another thread may have the GIL, and the instance's own, in the middle of them.
    cdef Transfer _mover(self):
        cdef Transfer own = self.instance.transfer
        return Transfer(own.pool, own.use)

    cdef Tensor _output(self, TensorSpec spec, object tensor, bint lone):
        return client_view(self.signature, spec, self._tensor(spec.name, <int>_NUMBERS[tensor._datatype], tensor, lone))

    cdef Tensor _tensor(self, str name, int datatype, object tensor, bint lone):
        cdef object array = tensor._array
        cdef object source
        cdef Tensor sent
        cdef bytes data
        if array is None:
            source = tensor._source
            sent = (<LocalTensor>source).tensor
            return view_dims(name, sent.datatype, sent.dims, sent.rank, sent.element_count, sent.buffer, sent.data,
                             sent.nbytes)
        if datatype == DT_BYTES:
            data = tensor._wire
            if data is None:  # an input, which the model has opened and may have changed
                data = tensors.encode(array.ravel())
            return _over(name, datatype, array.shape, wrap(data) if data else None)
        if array.nbytes < COPY_NBYTES:
            data = array.tobytes()
            return _over(name, datatype, array.shape, wrap(data) if data else None)
        return _over(name, datatype, array.shape, self._leased(array, lone))

    # The bytes of a large array: where they are if nobody else can change them, else a copy.
    cdef Buffer _leased(self, object array, bint lone):
        cdef Buffer buffer
        cdef Buffer copy
        if not array.flags.c_contiguous:
            buffer = wrap(np.ascontiguousarray(array))
            buffer.readonly = False
            return buffer
        lone = lone and _is_lone(array)
        buffer = wrap(array)
        if lone:
            buffer.readonly = not array.flags.writeable
            return buffer
        copy = self.pool.lease(buffer.nbytes)
        with nogil:
            memcpy(copy.data, buffer.data, buffer.nbytes)
        return copy

    # -- other models ------------------------------------------------------------------------------

    def submit(self, request, call):
        cdef object source = request._source
        cdef InferRequest inner
        cdef Tensor sent
        cdef list inputs = []
        cdef bint anywhere
        if self.inference is None or self.instance is None:
            raise Refused(<int>Code.UNAVAILABLE, "there is no server to run inference requests of a model")
        for tensor in request._inputs:
            sent = _shared(self._tensor(tensor._name, <int>_NUMBERS[tensor._datatype], tensor, True))
            if sent.buffer is not None and sent.buffer.memory_type == MEMORY_GPU:
                problem = self._mover().awaited(sent.buffer.device_id)
                if problem is not None:
                    raise Refused(<int>Code.INTERNAL, f"input '{sent.name}' can not be used: {problem}")
            inputs.append(sent)
        preferred = source.preferred_memory
        anywhere = preferred is not None and preferred.memory_type == _GPU
        inner = InferRequest(
            source.inner_model, source.model_version, source.id, inputs,
            [RequestedOutput(name, anywhere=anywhere) for name in source.output_names], source.parameters,
            0, source.timeout, source.correlation_id, source.flags, False, ta_now_ns(),
        )
        call.cancel_function = self.inference.submit(inner, LocalCall(call, source.inner_model), self.instance)
        if call.decoupled:
            call.taken_function = call.cancel_function.taken

    def load_model(self, name, parameters):
        self._ask("load_model", name, parameters)

    def unload_model(self, name, unload_dependents):
        self._ask("unload_model", name, unload_dependents)

    def is_model_ready(self, name, version):
        return self._ask("model_ready", name, version)

    def _ask(self, function, *arguments):
        if self.inference is None:
            raise Refused(<int>Code.UNAVAILABLE, "there is no server that has models")
        try:
            return getattr(self.inference, function)(*arguments)
        except ServerError as error:
            raise Refused(error.code, error.message) from None

    # -- log and metrics ---------------------------------------------------------------------------

    def log(self, int level, text, filename, line):
        number = _LEVELS[level]
        if log.isEnabledFor(number):
            log.handle(log.makeRecord(log.name, number, filename, line, "%s", (text,), None))

    def metric_family(self, name, description, kind):
        return self._held(self.metrics.family(name, description, kind))

    def drop_family(self, family):
        self._drop(family)

    def metric(self, family, labels, buckets):
        return self._held(family.metric(labels, buckets))

    def drop_metric(self, metric):
        self._drop(metric)

    def metric_increment(self, metric, value):
        metric.increment(value)

    def metric_set(self, metric, value):
        metric.set(value)

    def metric_observe(self, metric, value):
        metric.observe(value)

    def metric_value(self, metric):
        return metric.value()

    def _held(self, handle):
        self.handles.add(handle)
        return handle

    def _drop(self, handle):
        if handle in self.handles:
            self.handles.remove(handle)
            handle.drop()


Channel.register(LocalChannel)


class LocalCall(InferenceCall):
    """Hands what a call of another model brings to the worker.calls.Call of the model. Loop thread, or, where it
    `waits`, the one that has made it."""

    __slots__ = ("askers", "bound", "call", "counts_reads", "decoupled", "model", "waits")

    def __init__(self, call, model):
        self.call = call
        self.model = model
        self.decoupled = self.counts_reads = call.decoupled
        self.askers = ASKERS.get()
        self.waits = call.waits
        # A loop that runs would be in the way of one that a model may want to run.
        self.bound = self.waits and _get_running_loop() is not None

    def responded(self, InferResponse response):
        if response.error is not None:
            made = _failure(response.error.code, response.error.message)
        elif response.final and self.decoupled and not response.outputs:
            made = None
        else:
            made = _InferenceResponse([_from_source(tensor.name, _local(tensor)) for tensor in response.outputs],
                                      None, response.parameters)
        return self.call.put(made, response.final)

    def refused(self, error):
        if isinstance(error, DecoupledModel):
            text = calls.decoupled_refusal(self.model)
        else:
            text = calls.refusal(self.model, error.message)
        self.call.deliver(_failure(error.code, text), True)


def _failure(code, message):
    return _InferenceResponse([], _TritonError(message, _ErrorCode(code)))


# A tensor whose memory the receiver may only read.
cdef Tensor _shared(Tensor tensor):
    cdef Buffer buffer
    if tensor.buffer is None or tensor.buffer.readonly or tensor.buffer.memory_type == MEMORY_GPU:
        return tensor
    buffer = wrap(tensor)
    return view_dims(tensor.name, tensor.datatype, tensor.dims, tensor.rank, tensor.element_count, buffer, tensor.data,
                     tensor.nbytes)


cdef Tensor _over(str name, int datatype, tuple shape, Buffer buffer):
    cdef int64_t[16] dims
    cdef int rank = 0
    if len(shape) > TA_MAX_RANK:
        raise InternalError(f"tensor '{name}' has {len(shape)} dimensions, at most {TA_MAX_RANK} are supported")
    for dim in shape:
        dims[rank] = dim
        rank += 1
    if buffer is None:
        return view_dims(name, datatype, dims, rank, elements(dims, rank), None, NULL, 0)
    return view_dims(name, datatype, dims, rank, elements(dims, rank), buffer, buffer.data, buffer.nbytes)


# Whether nobody else can reach the bytes of an array: neither through it, which its tensor and a variable of the caller
# refer to, nor through what it is a view of.
cdef bint _is_lone(object array) except -1:
    cdef object current = array
    cdef object base
    while Py_REFCNT(<PyObject *>current) <= 3:
        base = current.base
        if base is None or isinstance(base, Buffer):  # an input lies in memory of its request
            return True
        if type(base) is bytearray:  # an input was copied there, or the model has put it there
            return Py_REFCNT(<PyObject *>base) <= 2
        if type(base) is not _ndarray:
            return False
        current = base  # of the view, and twice here
    return False
