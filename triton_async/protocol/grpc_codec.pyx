"""ModelInferRequest on the wire to InferRequest. Sans-IO; any thread with the GIL.

The message is read twice: once for its own fields, once for the inputs together with their raw contents, which
protobuf usually puts at the end. So nothing has to be remembered between the two.
"""

from libc.stdint cimport int64_t, uint32_t, uint8_t, uint64_t
from libc.string cimport memcmp

from triton_async.datatypes cimport elements, from_name
from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor, view_dims
from triton_async.memory.buffer cimport Buffer, wrap
from triton_async.protocol.grpc_contents cimport pack_contents
from triton_async.protocol cimport grpc_regions
from triton_async.protocol.grpc_parameters cimport Parameter, apply, classification, read_entry
from triton_async.protocol.grpc_regions cimport RegionParameters
from triton_async.protocol.wire cimport (
    TA_WIRE_BYTES, TA_WIRE_INT, check, next_field, ta_wire, ta_wire_bytes, ta_wire_left, ta_wire_next,
    ta_wire_skip, ta_wire_varint, text,
)

from triton_async.defines import JSON_OFFLOAD_NBYTES, MAX_TENSORS_PER_REQUEST
from triton_async.errors import InvalidArg
from triton_async.infer.signature import format_dims
from triton_async.protocol.version import parse_version
from triton_async.protocol.wire import Malformed

cdef int64_t _TENSORS_MAX = MAX_TENSORS_PER_REQUEST
cdef int64_t _OFFLOAD_NBYTES = JSON_OFFLOAD_NBYTES

# Fields of ModelInferRequest.
cdef enum RequestField:
    REQUEST_MODEL_NAME = 1
    REQUEST_MODEL_VERSION = 2
    REQUEST_ID = 3
    REQUEST_PARAMETERS = 4
    REQUEST_INPUTS = 5
    REQUEST_OUTPUTS = 6
    REQUEST_RAW = 7

# Fields of InferInputTensor.
cdef enum InputField:
    INPUT_NAME = 1
    INPUT_DATATYPE = 2
    INPUT_SHAPE = 3
    INPUT_PARAMETERS = 4
    INPUT_CONTENTS = 5

# One InferInputTensor before it is a tensor; points into the message.
cdef struct Input:
    ta_wire whole
    ta_wire name
    ta_wire datatype
    int64_t[16] dims
    int rank
    bint has_contents
    RegionParameters region


def decode_request(message, int64_t received_ns=0, RegionRegistry regions=None):
    """The InferRequest in the bytes of a ModelInferRequest; its raw inputs are views that keep `message`."""
    return decode(message if isinstance(message, Buffer) else wrap(message), received_ns, regions)


def request_id(message):
    """The id of a ModelInferRequest, for errors about it; "" when it has none, is malformed or of very many fields."""
    return _text_of(message, REQUEST_ID)


def requested_model(message):
    """The name of the model that a ModelInferRequest asks, for logs; "" when it has none or is malformed."""
    return _text_of(message, REQUEST_MODEL_NAME)


cdef str _text_of(object message, uint32_t wanted):
    cdef Buffer buffer = wrap(message)
    cdef ta_wire wire
    cdef ta_wire value
    cdef ta_wire found
    cdef uint32_t field
    cdef int type
    cdef int left = 4 * _TENSORS_MAX
    found.at = found.end = NULL
    wire.at = <const uint8_t *>buffer.data
    wire.end = wire.at + buffer.nbytes
    try:
        type = next_field(&wire, &field)
        while type >= 0:
            left -= 1
            if left < 0:
                return ""
            if type == TA_WIRE_BYTES:
                check(ta_wire_bytes(&wire, &value))
                if field == wanted:
                    found = value
            else:
                check(ta_wire_skip(&wire, type))
            type = next_field(&wire, &field)
        return text(found)
    except Malformed:
        return ""


cpdef bint is_long_message(object message):
    cdef Buffer buffer = message if isinstance(message, Buffer) else wrap(message)
    cdef int64_t left = _OFFLOAD_NBYTES
    cdef ta_wire wire
    cdef ta_wire value
    cdef const uint8_t *before
    cdef uint32_t field
    cdef int type
    if buffer.nbytes <= _OFFLOAD_NBYTES:
        return False
    wire.at = value.at = value.end = <const uint8_t *>buffer.data
    wire.end = wire.at + buffer.nbytes
    while left >= 0:
        before = wire.at
        type = ta_wire_next(&wire, &field)
        if type < 0:
            return False  # its end, or decoding finds the mistake as soon
        if type == TA_WIRE_BYTES and field == REQUEST_RAW:
            if ta_wire_bytes(&wire, &value) < 0:
                return False
            left += ta_wire_left(&value)
        elif ta_wire_skip(&wire, type) < 0:
            return False
        left -= wire.at - before
    return True


cdef InferRequest decode(Buffer message, int64_t received_ns, RegionRegistry regions):
    cdef InferRequest request = InferRequest.__new__(InferRequest)
    cdef int64_t n_inputs = 0
    cdef int64_t n_raw = 0
    cdef ta_wire whole
    cdef ta_wire wire
    cdef ta_wire value
    cdef ta_wire name
    cdef ta_wire version
    cdef ta_wire identifier
    cdef ta_wire raw
    cdef const uint8_t *before
    cdef uint32_t field
    cdef int type
    name.at = name.end = version.at = version.end = identifier.at = identifier.end = NULL
    whole.at = <const uint8_t *>message.data
    whole.end = whole.at + message.nbytes
    wire = raw = whole
    request.outputs = []
    request.sequence_id = 0
    request.received_ns = received_ns
    request.binary_default = True
    while True:
        before = wire.at
        type = next_field(&wire, &field)
        if type < 0:
            break
        if type != TA_WIRE_BYTES:
            check(ta_wire_skip(&wire, type))
            continue
        check(ta_wire_bytes(&wire, &value))
        if field == REQUEST_INPUTS:
            n_inputs += 1
        elif field == REQUEST_RAW:
            if n_raw == 0:
                raw.at = before
            n_raw += 1
        elif field == REQUEST_MODEL_NAME:
            name = value
        elif field == REQUEST_MODEL_VERSION:
            version = value
        elif field == REQUEST_ID:
            identifier = value
        elif field == REQUEST_PARAMETERS:
            _request_parameter(request, value)
        elif field == REQUEST_OUTPUTS:
            if len(request.outputs) >= _TENSORS_MAX:
                raise InvalidArg(f"request asks for more than {_TENSORS_MAX} outputs")
            request.outputs.append(_output(value, regions))
    if n_inputs > _TENSORS_MAX:
        raise InvalidArg(f"request has {n_inputs} inputs, at most {_TENSORS_MAX} are supported")
    request.model_name = text(name)
    request.model_version = -1 if version.at == version.end else parse_version(text(version))
    request.id = text(identifier)
    request.inputs = _inputs(request, message, whole, raw, n_inputs, n_raw, regions)
    return request


cdef int _request_parameter(InferRequest request, ta_wire entry) except -1:
    cdef Parameter value
    cdef str key = read_entry(entry, &value)
    return apply(request, key, &value)


cdef RequestedOutput _output(ta_wire wire, RegionRegistry regions):
    cdef RequestedOutput output = RequestedOutput.__new__(RequestedOutput)
    output.binary = True
    cdef Parameter parameter
    cdef uint32_t field
    cdef ta_wire value
    cdef ta_wire name
    cdef RegionParameters region
    cdef bint has_classes = False
    cdef Parameter classes
    cdef str key
    cdef int type
    name.at = name.end = NULL
    grpc_regions.clear(&region)
    type = next_field(&wire, &field)
    while type >= 0:
        if type == TA_WIRE_BYTES and field == 1:
            check(ta_wire_bytes(&wire, &name))
        elif type == TA_WIRE_BYTES and field == 2:
            check(ta_wire_bytes(&wire, &value))
            key = read_entry(value, &parameter)
            if key == "classification":
                has_classes = True
                classes = parameter
            else:
                grpc_regions.note(&region, key, &parameter)
        else:
            check(ta_wire_skip(&wire, type))
        type = next_field(&wire, &field)
    output.name = text(name)
    grpc_regions.names_region(&region, name)
    if has_classes:
        output.classification = classification(&classes)
    if region.named:
        if has_classes:
            raise InvalidArg("output can't set both 'shared_memory_region' and 'classification'")
        output.region = grpc_regions.lease(&region, regions, True, False)
    return output


cdef list _inputs(InferRequest request, Buffer message, ta_wire wire, ta_wire raw, int64_t n_inputs, int64_t n_raw,
                  RegionRegistry regions):
    cdef list tensors = []
    cdef Buffer region
    cdef Input pending
    cdef ta_wire value
    cdef uint32_t field
    cdef int type
    value.at = value.end = NULL
    if n_inputs == 0:
        return tensors
    type = next_field(&wire, &field)
    while type >= 0:
        if field == REQUEST_INPUTS and type == TA_WIRE_BYTES:
            check(ta_wire_bytes(&wire, &pending.whole))
            _read_input(request, &pending, n_raw > 0)
            if pending.region.named:
                region = grpc_regions.lease(&pending.region, regions, False, _is_bytes(&pending.datatype))
                tensors.append(_tensor(request, &pending, region, region.data, region.nbytes))
            elif pending.has_contents:
                tensors.append(_typed_tensor(request, &pending))
            else:
                if not _next_raw(&raw, &value):
                    raise InvalidArg(f"unable to find data for input tensor '{text(pending.name)}' for model "
                                     f"'{request.model_name}' in request.")
                tensors.append(_tensor(request, &pending, message, <char *>value.at, ta_wire_left(&value)))
            n_inputs -= 1
            if n_inputs == 0:
                break
        else:
            check(ta_wire_skip(&wire, type))
        type = next_field(&wire, &field)
    return tensors


cdef bint _is_bytes(const ta_wire *datatype) noexcept:
    return ta_wire_left(datatype) == 5 and memcmp(datatype.at, b"BYTES", 5) == 0


# The next raw_input_contents behind the cursor; False when there is none.
cdef bint _next_raw(ta_wire *raw, ta_wire *value) except -1:
    cdef uint32_t field
    cdef int type = next_field(raw, &field)
    while type >= 0:
        if field == REQUEST_RAW and type == TA_WIRE_BYTES:
            check(ta_wire_bytes(raw, value))
            return True
        check(ta_wire_skip(raw, type))
        type = next_field(raw, &field)
    return False


cdef int _read_input(InferRequest request, Input *pending, bint any_raw) except -1:
    cdef ta_wire wire = pending.whole
    cdef ta_wire value
    cdef Parameter parameter
    cdef uint64_t dim = 0
    cdef uint32_t field
    cdef str key
    cdef int type
    pending.name.at = pending.name.end = pending.datatype.at = pending.datatype.end = NULL
    pending.rank = 0
    pending.has_contents = False
    grpc_regions.clear(&pending.region)
    type = next_field(&wire, &field)
    while type >= 0:
        if type == TA_WIRE_INT and field == INPUT_SHAPE:
            check(ta_wire_varint(&wire, &dim))
            _add_dim(pending, dim)
        elif type != TA_WIRE_BYTES or field > INPUT_CONTENTS:
            check(ta_wire_skip(&wire, type))
        else:
            check(ta_wire_bytes(&wire, &value))
            if field == INPUT_NAME:
                pending.name = value
            elif field == INPUT_DATATYPE:
                pending.datatype = value
            elif field == INPUT_SHAPE:
                while value.at < value.end:
                    check(ta_wire_varint(&value, &dim))
                    _add_dim(pending, dim)
            elif field == INPUT_CONTENTS:
                pending.has_contents = True
            else:
                key = read_entry(value, &parameter)
                grpc_regions.note(&pending.region, key, &parameter)
        type = next_field(&wire, &field)
    if grpc_regions.names_region(&pending.region, pending.name):
        if pending.has_contents:
            raise InvalidArg(f"unexpected 'content' provided when using shared memory for input tensor "
                             f"'{text(pending.name)}' for model '{request.model_name}'")
    elif pending.has_contents and any_raw:
        raise InvalidArg(f"contents field must not be specified when using raw_input_contents for "
                         f"'{text(pending.name)}' for model '{request.model_name}'")
    return 0


cdef int _add_dim(Input *pending, uint64_t dim) except -1:
    if pending.rank >= TA_MAX_RANK:
        raise InvalidArg(f"tensor '{text(pending.name)}' has more than {TA_MAX_RANK} dimensions")
    pending.dims[pending.rank] = <int64_t>dim
    pending.rank += 1
    return 0


cdef Tensor _typed_tensor(InferRequest request, Input *pending):
    cdef int datatype = from_name(text(pending.datatype))
    cdef Buffer buffer = pack_contents(pending.whole, datatype, text(pending.name), request.model_name)
    return _tensor(request, pending, buffer, buffer.data, buffer.nbytes)


cdef Tensor _tensor(InferRequest request, Input *pending, Buffer buffer, char *data, int64_t nbytes):
    cdef int64_t count = elements(pending.dims, pending.rank)
    cdef str name = text(pending.name)
    cdef int i
    if count < 0:
        dims = format_dims([pending.dims[i] for i in range(pending.rank)])
        for i in range(pending.rank):
            if pending.dims[i] < 0:
                raise InvalidArg(f"{request.log_prefix()}All input dimensions should be specified for input "
                                 f"'{name}' for model '{request.model_name}', got {dims}")
        raise InvalidArg(f"invalid shape for input '{name}': shape {dims} causes total element count to exceed "
                         "maximum size of 9223372036854775807")
    return view_dims(name, from_name(text(pending.datatype)), pending.dims, pending.rank, count, buffer, data, nbytes)
