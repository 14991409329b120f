"""Controls and states of sequences as inputs of a batch. Loop thread."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t

from triton_async.datatypes cimport DT_BYTES, DT_INT32, DT_INT64, DT_UINT32, nbytes as size_of, to_name
from triton_async.infer.request cimport REQUEST_DONE, InferRequest, RequestedOutput
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport Tensor, view_dims
from triton_async.memory.buffer cimport wrap

import numpy as np

from triton_async import datatypes
from triton_async.config.sequences import ControlKind
from triton_async.defines import STATE_COPY_NBYTES
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.signature import format_dims
from triton_async.infer.tensor import from_numpy
from triton_async.infer.tensor import leave_out as leave_out_tensors
from triton_async.memory.buffer import leave_out as leave_out_buffers

cdef int64_t COPY_NBYTES = STATE_COPY_NBYTES
cdef object INTEGERS = {DT_INT32: (-2**31, 2**31 - 1), DT_UINT32: (0, 2**32 - 1), DT_INT64: (-2**63, 2**63 - 1)}


@cython.final
cdef class Injection:
    """`batching`: config SequenceBatching. `initial`: a Tensor for each state. `copies`: what engines return as states
    is lent to the server."""

    def __init__(self, ModelSignature signature, batching, list initial, bint copies=False):
        self.signature = signature
        self.first_control = len(signature.client_inputs)
        self.first_state = self.first_control + len(batching.controls)
        self.first_output = len(signature.client_outputs)
        self.n_states = len(batching.states)
        self.places = {state.output_name: place for place, state in enumerate(batching.states)}
        self.initial = initial
        self.copies = copies
        self.id_place = -1
        for place, control in enumerate(batching.controls, self.first_control):
            if control.kind is ControlKind.CORRID:
                self.id_place = place
                self.id_datatype = control.datatype
        self.controls = [self._values(batching, {ControlKind.START: flags & 1, ControlKind.END: flags >> 1,
                                                 ControlKind.READY: 1}) for flags in range(4)]
        self.idle = self._values(batching, {ControlKind.START: 0, ControlKind.END: 0, ControlKind.READY: 0})
        if self.id_place >= 0:
            self.idle[self.id_place - self.first_control] = self.id_tensor(
                "" if self.id_datatype == DT_BYTES else 0)
        for tensor in (*initial, *self.idle, *[one for controls in self.controls for one in controls]):
            self.own_tensors += tensor is not None
            self.own_buffers += tensor is not None and (<Tensor>tensor).buffer is not None
        leave_out_tensors(self.own_tensors)
        leave_out_buffers(self.own_buffers)

    def __dealloc__(self):
        leave_out_tensors(-self.own_tensors)
        leave_out_buffers(-self.own_buffers)

    # The tensors of the controls, None in the place of the correlation id.
    def _values(self, batching, values):
        shape = self._shape()
        found = []
        for control in batching.controls:
            if control.kind is ControlKind.CORRID:
                found.append(None)
                continue
            value = control.false_true[values[control.kind]]
            array = np.full(shape, value, datatypes.numpy_dtype(control.datatype))
            found.append(from_numpy(control.name, array))
        return found

    cdef Tensor id_tensor(self, object sequence_id):
        cdef bint text = isinstance(sequence_id, str)
        cdef TensorSpec spec
        if self.id_place < 0:
            return None
        spec = <TensorSpec>self.signature.inputs[self.id_place]
        if text != (self.id_datatype == DT_BYTES):
            raise InvalidArg(f"sequence batching control '{spec.name}' data-type is '{'BYTES' if text else 'UINT64'}', "
                             f"but model '{self.signature.model_name}' expects '{to_name(self.id_datatype)}'")
        shape = self._shape()
        if text:
            array = np.empty(shape, np.object_)
            array[...] = sequence_id.encode("utf-8", "replace")
            return from_numpy(spec.name, array)
        low, high = INTEGERS.get(self.id_datatype, (0, 2**64 - 1))
        if not low <= sequence_id <= high:
            raise InvalidArg(f"correlation ID {sequence_id} does not fit in sequence batching control '{spec.name}' of "
                             f"model '{self.signature.model_name}', which is '{to_name(self.id_datatype)}'")
        return from_numpy(spec.name, np.full(shape, sequence_id, datatypes.numpy_dtype(self.id_datatype)))

    # Of a control.
    def _shape(self):
        return (1,) * (2 if self.signature.max_batch_size > 0 else 1)

    cdef Tensor no_id(self):
        return None if self.id_place < 0 else <Tensor>self.idle[self.id_place - self.first_control]

    cdef bint takes_text(self) noexcept:
        return self.id_place >= 0 and self.id_datatype == DT_BYTES

    cdef int inject(self, InferRequest request, Tensor sequence_id, list states) except -1:
        cdef list slots = request.slots
        cdef list values = <list>self.controls[request.flags & 3]
        cdef Py_ssize_t i
        for i in range(len(values)):
            slots[self.first_control + i] = values[i]
        if self.id_place >= 0:
            slots[self.id_place] = sequence_id
        if states is None:
            states = self.initial
        for i in range(self.n_states):
            slots[self.first_state + i] = states[i]
        return 0

    cdef InferRequest padding(self, InferRequest leader):
        cdef InferRequest made = InferRequest(self.signature.model_name, self.signature.model_version)
        cdef Tensor wanted
        cdef list slots = []
        cdef Py_ssize_t i
        for i in range(len(leader.slots)):
            wanted = <Tensor>leader.slots[i]
            if wanted is None:
                slots.append(None)
            elif self.first_control <= i < self.first_state:
                slots.append(self.idle[i - self.first_control])
            else:
                slots.append(_zeros(wanted))
        made.slots = slots
        made.rows = 1
        made.padding = made.cancelled = True
        made.state = REQUEST_DONE
        return made

    cdef object take_states(self, InferResponse response):
        cdef list states = None
        cdef list outputs = []
        cdef TensorSpec spec
        cdef Tensor tensor
        cdef Py_ssize_t place
        if self.n_states == 0 or response.error is not None:
            return None
        for tensor in response.outputs:
            spec = <TensorSpec>self.signature.output_by_name[tensor.name]
            if not spec.injected:
                outputs.append(tensor)
                continue
            place = self.places[tensor.name]
            problem = self._misfit(tensor, spec)
            if problem is not None:
                return InternalError(problem)
            if states is None:
                states = [None] * self.n_states
            states[place] = self._owned(tensor, place)
            if spec.index < self.first_output and _asked(<InferRequest>response.request, tensor.name):
                outputs.append(tensor)
        response.outputs[:] = outputs
        if states is not None:
            (<InferRequest>response.request).states = states
        return None

    cdef str _misfit(self, Tensor tensor, TensorSpec spec):
        cdef int first = 1 if self.signature.max_batch_size > 0 else 0
        cdef bint fits = tensor.rank - first == spec.rank and (first == 0 or tensor.dims[0] == 1)
        cdef int i
        of = f"state output '{spec.name}' of model '{self.signature.model_name}' has"
        if tensor.datatype != spec.datatype:
            return f"{of} data-type '{to_name(tensor.datatype)}', but its configuration says '{to_name(spec.datatype)}'"
        if fits:
            for i in range(spec.rank):
                if spec.c_dims[i] != -1 and spec.c_dims[i] != tensor.dims[first + i]:
                    fits = False
        if not fits:
            dims = ((1,) if first else ()) + spec.dims
            return f"{of} shape {format_dims(tensor.shape)}, but its configuration says {format_dims(dims)}"
        return None

    # As the input of the next step, with bytes of its own where that is cheap.
    cdef Tensor _owned(self, Tensor tensor, Py_ssize_t place):
        cdef str name = (<TensorSpec>self.signature.inputs[self.first_state + place]).name
        cdef bytes data
        if tensor.nbytes == 0 or (tensor.nbytes > COPY_NBYTES and not self.copies):
            return view_dims(name, tensor.datatype, tensor.dims, tensor.rank, tensor.element_count, tensor.buffer,
                             tensor.data, tensor.nbytes)
        data = PyBytes_FromStringAndSize(tensor.data, tensor.nbytes)
        return _over(name, tensor, data)


# Whether the client has asked for the output: without a word it gets all.
cdef bint _asked(InferRequest request, str name) except -1:
    cdef RequestedOutput output
    for output in request.outputs:
        if output.name == name:
            return True
    return not request.outputs


cdef Tensor _over(str name, Tensor like, bytes data):
    buffer = wrap(data)
    return view_dims(name, like.datatype, like.dims, like.rank, like.element_count, buffer, buffer.data, len(data))


# Of the same shape; strings are empty.
cdef Tensor _zeros(Tensor like):
    cdef int64_t nbytes = 4 * like.element_count if like.datatype == DT_BYTES else size_of(like.element_count,
                                                                                           like.datatype)
    if nbytes == 0:
        return view_dims(like.name, like.datatype, like.dims, like.rank, like.element_count, None, NULL, 0)
    return _over(like.name, like, bytes(nbytes))
