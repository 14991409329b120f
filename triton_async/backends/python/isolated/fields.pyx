"""Fields of requests and responses on their way to and from a worker."""

import json

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.wire cimport FINAL, HAS_ERROR, HAS_RESPONSE, INNER, REQUEST, Cursor, Writer
from triton_async.backends.python.local cimport engine_view
from triton_async.infer.factory cimport ResponseFactory
from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.slab cimport SlabPool

from triton_async.backends.python.isolated.wire import WireError
from triton_async.backends.python.defines import WORKER_MAX_PARAMETERS


cdef list request_inputs(ResponseFactory factory):
    cdef ModelSignature signature = factory.signature
    cdef list found = []
    cdef TensorSpec spec
    cdef Tensor sent
    for spec in signature.inputs[len(signature.client_inputs):]:
        found.append(factory.inputs[spec.index])
    for sent in factory.request.inputs:
        spec = <TensorSpec>signature.input_by_name[sent.name]
        found.append(engine_view(signature, spec, <Tensor>factory.inputs[spec.index]))
    return found


cdef bint is_sent_on(InferRequest request):
    cdef RequestedOutput output
    for output in request.outputs:
        if not output.binary or output.classification or output.region is not None:
            return False
    return request.binary_default or bool(request.outputs)


cdef int write_request(Writer event, InferRequest request, uint64_t handle, uint64_t block, Writer tensors) except -1:
    cdef RequestedOutput output
    cdef uint32_t nbytes[2]
    cdef uint16_t count = <uint16_t>min(len(request.outputs), 0xFFFF)
    event.u8(REQUEST)
    event.u64(0)  # the two lengths
    event.u64(handle)
    event.u64(block)
    event.u32(<uint32_t>request.flags)
    event.u64(request.timeout_us)
    event.u64(request.priority)
    write_correlation_id(event, request.sequence_id)
    event.text(request.id)
    event.long_text(parameters_text(request.parameters))
    event.raw(<char *>&count, 2)
    for output in request.outputs[:count]:
        event.text(output.name)
    event.long_text(trace_context(request))
    nbytes[0] = <uint32_t>(event.size + tensors.size)
    nbytes[1] = <uint32_t>event.size
    event.raw(tensors.data, tensors.size)
    memcpy(event.data + 1, nbytes, 8)
    return 0


cdef bytes trace_context(InferRequest request):
    cdef str context = None if request.trace is None else request.trace.context()
    return b"" if context is None else context.encode()


cdef int write_inner_response(Writer event, uint64_t call, uint64_t block, Writer tensors, dict parameters,
                              object error, bint final) except -1:
    cdef int flags = FINAL if final else 0
    event.u8(INNER)
    event.u64(call)
    if error is not None:
        event.u8(flags | HAS_ERROR)
        event.u64(block)
        event.u32(<uint32_t>int(error.code))
        return event.long_text(error.message.encode("utf-8", "replace"))
    event.u8(flags if tensors is None else flags | HAS_RESPONSE)
    event.u64(block)
    if tensors is None:
        return 0
    event.long_text(parameters_text(parameters))
    return event.raw(tensors.data, tensors.size)


cdef int write_correlation_id(Writer event, value) except -1:
    if isinstance(value, str):
        event.u8(1)
        return event.text(value)
    event.u8(0)
    return event.u64(value or 0)


cdef bytes parameters_text(dict parameters):
    if not parameters:
        return b""
    return json.dumps(parameters, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


cdef dict json_object(bytes text):
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise WireError("a text that is not JSON") from None
    if type(found) is not dict:
        raise WireError("JSON that is not an object")
    return found


cdef dict read_parameters(bytes text):
    if not text:
        return None
    found = json_object(text)
    if len(found) > WORKER_MAX_PARAMETERS:
        raise WireError("too many parameters")
    for value in found.values():
        if type(value) is int:
            if not -(2**63) <= value < 2**63:
                raise WireError("a parameter that does not fit in 64 bits")
        elif type(value) not in (bool, str, float):
            raise WireError("a parameter that is neither text nor a number")
    return found


cdef dict read_inner_request(Cursor cursor, SharedMemory memory, SlabPool pool, list freed):
    cdef uint16_t count
    cdef int how = cursor.u8()
    fields = {"decoupled": bool(how & 1), "on_thread": bool(how & 2), "askers": None}
    memcpy(&count, cursor._take(2), 2)
    if count != 0xFFFF:
        fields["askers"] = [cursor.u64() for _ in range(count)]
    fields["model_name"] = cursor.text()
    fields["model_version"] = <int64_t>cursor.u64()
    flags = cursor.u32()
    if flags > 0x7FFFFFFF:
        raise WireError("flags that are none")
    fields["flags"] = flags
    fields["timeout_us"] = cursor.u64()
    fields["sequence_id"] = cursor.text() if cursor.u8() else cursor.u64()
    fields["id"] = cursor.text()
    fields["parameters"] = read_parameters(cursor.long_bytes())
    memcpy(&count, cursor._take(2), 2)
    fields["output_names"] = [cursor.text() for _ in range(count)]
    fields["inputs"] = cursor.tensors(memory, pool, freed)
    return fields
