"""v2 infer over HTTP: bodies into requests, responses into bodies (JSON and the binary tensor data extension)."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from triton_async.datatypes cimport DT_BYTES, elements, from_name, itemsize, to_name
from triton_async.infer.request cimport (
    FLAG_SEQUENCE_END,
    FLAG_SEQUENCE_START,
    InferRequest,
    RequestedOutput,
    asked_output,
)
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.strings cimport has_many_strings
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor, view, view_dims
from triton_async.memory.buffer cimport Buffer, wrap
from triton_async.memory.regions cimport RegionRegistry, lease_region
from triton_async.protocol.classification cimport classify
from triton_async.protocol.json_cut cimport (
    TA_JSON_INFER,
    TA_JSON_INPUTS,
    TA_JSON_OUTPUTS,
    TA_JSON_PARAMETERS,
    CutJson,
    cut_json,
)
from triton_async.protocol.json_tensor cimport from_json, to_json, to_json_pieces
from triton_async.protocol.json_value cimport as_array, as_bool, as_string, as_uint, member, members, present

import orjson

from triton_async.defines import (
    HTTP_PIECE_NBYTES, JSON_OFFLOAD_ELEMENTS, JSON_OFFLOAD_NBYTES, MAX_TENSORS_PER_REQUEST,
)
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.signature import format_dims

JSON = "application/json"
BINARY = "application/octet-stream"

cdef str BY_OPTION = "Use --http-max-input-size to increase the limit."
cdef int DUMP_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
cdef int64_t LARGEST = 0x7FFFFFFFFFFFFFFF
cdef int64_t OFFLOAD_NBYTES = JSON_OFFLOAD_NBYTES
cdef int64_t OFFLOAD_ELEMENTS = JSON_OFFLOAD_ELEMENTS
cdef Py_ssize_t PIECE_NBYTES = HTTP_PIECE_NBYTES


cpdef InferRequest decode_infer(str model_name, int64_t model_version, ModelSignature signature, object body,
                                int64_t header_length, int64_t max_input_nbytes, int64_t received_ns,
                                RegionRegistry regions=None):
    cdef Buffer buffer = wrap(body)
    cdef InferRequest request = InferRequest(model_name, model_version, received_ns=received_ns)
    cdef Decoder decoder
    if header_length == 0:
        take_raw(request, signature, buffer, max_input_nbytes)
        return request
    if header_length < 0:
        header_length = buffer.nbytes
    if header_length > buffer.nbytes:
        raise InvalidArg(f"unexpected size for request JSON, expecting {header_length - buffer.nbytes} more bytes")
    if header_length > max_input_nbytes:
        raise InvalidArg(f"request JSON size of {header_length} bytes exceeds the maximum allowed input size of "
                         f"{max_input_nbytes} bytes. {BY_OPTION}")
    decoder = Decoder.__new__(Decoder)
    decoder.json = cut_json(buffer.data, header_length, TA_JSON_INFER, "Unable to parse 'data': ")
    decoder.request = request
    decoder.buffer = buffer
    decoder.at = header_length
    decoder.max_nbytes = max_input_nbytes
    decoder.regions = regions
    decoder.read(decoder.json.document)
    return request


@cython.final
cdef class Decoder:
    """Fills one request from a parsed document, in Triton's order: id, parameters, inputs, outputs."""

    cdef InferRequest request
    cdef Buffer buffer
    cdef int64_t at                  # first byte of the body that no input took
    cdef int64_t max_nbytes
    cdef RegionRegistry regions
    cdef CutJson json

    cdef int read(self, object document) except -1:
        cdef dict holder = present(document)
        cdef list entries
        if "id" in holder:
            self.request.id = as_string(holder["id"], "Unable to parse 'id'")
        if "parameters" in holder:
            self.check_count("parameters", TA_JSON_PARAMETERS)
            self.parameters(holder["parameters"])
        entries = as_array(member(holder, "inputs", "Unable to parse 'inputs'"), "Unable to parse 'inputs'")
        self.check_count("inputs", TA_JSON_INPUTS)
        for entry in entries:
            self.request.inputs.append(self.input(entry))
        if self.at != self.buffer.nbytes:
            raise InvalidArg(f"unexpected additional input data for model '{self.request.model_name}'")
        if "outputs" in holder:
            entries = as_array(holder["outputs"], "Unable to parse 'outputs'")
            self.check_count("outputs", TA_JSON_OUTPUTS)
            for entry in entries:
                self.request.outputs.append(self.output(entry))
        return 0

    cdef int check_count(self, str kind, int what) except -1:
        if self.json.c.counts[what] > MAX_TENSORS_PER_REQUEST:
            raise InvalidArg(f"{self.request.log_prefix()}request has {self.json.c.counts[what]} {kind}, at most "
                             f"{MAX_TENSORS_PER_REQUEST} are supported")
        return 0

    cdef int parameters(self, object value) except -1:
        cdef InferRequest request = self.request
        cdef dict others = {}
        for key, item in members(value, "failed to get request params."):
            if item is not None:
                take_parameter(request, key, item, others)
        if others:
            request.parameters = others
        return 0

    cdef Tensor input(self, object entry):
        cdef dict holder = present(entry)
        cdef dict options = present(holder.get("parameters"))
        cdef str name
        cdef int datatype, rank
        cdef int64_t[16] dims
        cdef int64_t count
        cdef Buffer region
        _check_content(holder, options)
        name = as_string(member(holder, "name", "Unable to parse 'name'"), "Unable to parse 'name'")
        datatype = from_name(
            as_string(member(holder, "datatype", "Unable to parse 'datatype'"), "Unable to parse 'datatype'")
        )
        rank = _dims(name, member(holder, "shape", "Unable to parse 'shape'"), dims)
        count = elements(dims, rank)
        if count < 0:
            _refuse_count(name, [dims[i] for i in range(rank)])
        if "binary_data_size" in options:
            return self.binary(name, datatype, dims, rank, count, options["binary_data_size"])
        region = self.region(options, False, datatype == DT_BYTES) if options else None
        if region is not None:
            return view_dims(name, datatype, dims, rank, count, region, region.data, region.nbytes)
        return from_json(name, datatype, dims, rank, count, self.json, holder["data"], self.max_nbytes)

    cdef Tensor binary(self, str name, int datatype, const int64_t *dims, int rank, int64_t count, object size):
        cdef uint64_t nbytes = as_uint(size, "Unable to parse 'binary_data_size'")
        cdef uint64_t left = self.buffer.nbytes - self.at
        cdef Tensor tensor
        if nbytes > left:
            raise InvalidArg(f"unexpected size for input '{name}', expecting {nbytes - left} additional bytes for "
                             f"model '{self.request.model_name}'")
        tensor = view_dims(name, datatype, dims, rank, count, self.buffer, self.buffer.data + self.at,
                           <int64_t>nbytes)
        self.at += <int64_t>nbytes
        return tensor

    # The part of a region that the parameters of an input or output name; None when they name none.
    cdef Buffer region(self, dict options, bint writable, bint private):
        cdef str name = None
        cdef uint64_t offset = 0
        cdef uint64_t nbytes = 0
        if "shared_memory_region" in options:
            name = as_string(options["shared_memory_region"], "Unable to parse 'shared_memory_region'")
        if "shared_memory_offset" in options:
            offset = as_uint(options["shared_memory_offset"], "Unable to parse 'shared_memory_offset'")
        if "shared_memory_byte_size" in options:
            nbytes = as_uint(options["shared_memory_byte_size"], "Unable to parse 'shared_memory_byte_size'")
        return None if name is None else lease_region(self.regions, name, offset, nbytes, writable, private)

    cdef RequestedOutput output(self, object entry):
        cdef dict holder = present(entry)
        cdef dict options = present(holder.get("parameters"))
        cdef bint binary = False
        cdef uint64_t classes = 0
        cdef Buffer region
        if "shared_memory_region" in options:
            if "classification" in options:
                raise InvalidArg("Output can't set both 'shared_memory_region' and 'classification'")
            if "binary_data" in options and as_bool(options["binary_data"], "Unable to set 'binary_data'"):
                raise InvalidArg("Output can't set both 'shared_memory_region' and 'binary_data'")
        name = as_string(member(holder, "name", "Unable to parse 'name'"), "Unable to parse 'name'")
        if not options:
            return RequestedOutput(name)
        if "classification" in options:
            classes = as_uint(options["classification"], "Unable to set 'classification'")
        region = self.region(options, True, False)
        if region is None and "binary_data" in options:
            binary = as_bool(options["binary_data"], "Unable to parse 'binary_data'")
        return RequestedOutput(name, binary, min(classes, <uint64_t>LARGEST), None, region)


cdef int take_parameter(InferRequest request, str key, object item, dict others) except -1:
    if key == "sequence_id":
        if type(item) is int and 0 <= item <= 0xFFFFFFFFFFFFFFFF:
            request.sequence_id = item
        else:
            request.sequence_id = as_string(item, "Unable to parse 'sequence_id'")
    elif key == "sequence_start":
        if as_bool(item, "Unable to parse 'sequence_start'"):
            request.flags |= FLAG_SEQUENCE_START
    elif key == "sequence_end":
        if as_bool(item, "Unable to parse 'sequence_end'"):
            request.flags |= FLAG_SEQUENCE_END
    elif key == "priority":
        request.priority = as_uint(item, "Unable to parse 'priority'")
    elif key == "timeout":
        request.timeout_us = as_uint(item, "Unable to parse 'timeout'")
    elif key == "binary_data_output":
        request.binary_default = as_bool(item, "Unable to parse 'binary_data_output'")
    elif key.startswith("triton_"):
        raise InvalidArg("parameter keys starting with 'triton_' are reserved for Triton usage and should not "
                         "be specified.")
    else:
        others[key] = _parameter(key, item)
    return 0


cdef object _parameter(str key, object value):
    if type(value) is str or type(value) is bool or type(value) is float:
        return value
    if type(value) is int:
        # Parameters are 64-bit signed; a larger number is a double, as for Triton.
        return value if value <= 0x7FFFFFFFFFFFFFFF else float(value)
    raise InvalidArg(f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string'.")


cdef int _check_content(dict holder, dict options) except -1:
    cdef bint data = "data" in holder
    cdef bint binary = "binary_data_size" in options
    cdef bint region = "shared_memory_region" in options
    if data + binary + region == 1:
        return 0
    text = ("Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            "'shared_memory_region' in 'parameters'. But")
    if not data + binary + region:
        raise InvalidArg(f"{text} no field is set")
    text += " set"
    if data:
        text += " 'data'"
    if binary:
        text += " 'binary_data_size'"
    if region:
        text += " 'shared_memory_region'"
    raise InvalidArg(text)


# Writes the dims of a parsed `shape` to `dims` and returns the rank.
cdef int _dims(str name, object shape, int64_t *dims) except -1:
    cdef list found = as_array(shape, "Unable to parse 'shape'")
    cdef int rank = 0
    cdef uint64_t dim
    if len(found) > TA_MAX_RANK:
        raise InvalidArg(f"input '{name}' has {len(found)} dimensions, at most {TA_MAX_RANK} are supported")
    for item in found:
        if type(item) is not int or not 0 <= item <= 0xFFFFFFFFFFFFFFFF:
            # The one of these mistakes for which Triton's own tests ask for the status 500.
            raise InternalError("Unable to parse 'shape': attempt to access JSON non-unsigned-integer as "
                                "unsigned-integer")
        dim = item
        if dim > <uint64_t>LARGEST:
            _refuse_count(name, found)
        dims[rank] = <int64_t>dim
        rank += 1
    return rank


cdef int _refuse_count(str name, list dims) except -1:
    raise InvalidArg(f"invalid shape for input '{name}': shape {format_dims(dims)} causes total element count to "
                     f"exceed maximum size of {LARGEST}")


# The whole body is the one input of the model; outputs come in binary form.
cdef int take_raw(InferRequest request, ModelSignature signature, Buffer body, int64_t max_nbytes) except -1:
    cdef int64_t size = body.nbytes
    cdef object known = 1
    cdef object width
    cdef TensorSpec spec
    cdef list shape
    if size > max_nbytes:
        raise InvalidArg(f"Raw input has a byte_size ({size} bytes) that exceeds the maximum allowed value of "
                         f"{max_nbytes} bytes. {BY_OPTION}")
    if len(signature.client_inputs) != 1:
        raise InvalidArg(f"{request.log_prefix()}Raw request must only have 1 input (found 1) to be deduced but got "
                         f"{len(signature.client_inputs)} inputs in '{request.model_name}' model configuration")
    spec = signature.client_inputs[0]
    shape = list(spec.dims)
    request.binary_default = True
    if spec.datatype == DT_BYTES:
        if shape != [1]:
            raise InvalidArg(f"{request.log_prefix()}For BYTE datatype raw input '{spec.name}', the model must have "
                             "input shape [1]")
        body = wrap(b"".join((size.to_bytes(4, "little"), body)))
        size = body.nbytes
    elif shape.count(-1) > 1:
        raise InvalidArg(f"{request.log_prefix()}The shape of the raw input '{spec.name}' can not be deduced because "
                         "there are more than one variable-sized dimension")
    else:
        for dim in shape:
            known *= dim if dim != -1 else 1
        width = known * itemsize(spec.datatype)
        if -1 in shape:
            known = size // width if width else 0
            shape[shape.index(-1)] = known
            width *= known
        if width != size:
            raise InvalidArg(f"{request.log_prefix()}input byte size mismatch for input 'raw_input' for model "
                             f"'{request.model_name}'. Expected {width}, got {size}")
    if signature.max_batch_size > 0:
        shape.insert(0, 1)
    request.inputs.append(view(spec.name, spec.datatype, shape, body, 0, size))
    return 0


def decode_long(str model_name, int64_t model_version, ModelSignature signature, object body, int64_t header_length,
                int64_t max_input_nbytes, int64_t received_ns, RegionRegistry regions=None):
    """`decode_infer` on another thread, where strings are checked too, if they are many."""
    cdef InferRequest request = decode_infer(model_name, model_version, signature, body, header_length,
                                             max_input_nbytes, received_ns, regions)
    return signature.validated(request) if has_many_strings(request) else request


cpdef bint is_long_json(int64_t nbytes):
    return nbytes > OFFLOAD_NBYTES


cpdef bint is_long_answer(InferRequest request, InferResponse response):
    cdef RequestedOutput asked
    cdef Tensor tensor
    cdef int64_t count = 0
    for tensor in response.outputs:
        asked = asked_output(request, tensor.name)
        if (asked is not None and (asked.classification > 0 or (asked.region is None and not asked.binary))) or (
            asked is None and not request.binary_default
        ):
            count += tensor.element_count + (tensor.nbytes >> 3)
    return count > OFFLOAD_ELEMENTS


cpdef tuple encode_infer(InferRequest request, InferResponse response, ModelSignature signature):
    cdef dict head = _head(request, response)
    cdef list entries = []
    cdef list parts = []
    cdef Tensor tensor
    for tensor in response.outputs:
        entry, tensor = _entry(request, signature, tensor, parts)
        if tensor is not None:
            entry["data"] = to_json(tensor)
        entries.append(entry)
    head["outputs"] = entries
    return _encoded(orjson.dumps(head, None, DUMP_OPTIONS), parts)


cpdef tuple encode_long(InferRequest request, InferResponse response, ModelSignature signature):
    cdef list pieces = [orjson.dumps(_head(request, response)).removesuffix(b"}"), b',"outputs":[']
    cdef list parts = []
    cdef Tensor tensor
    for tensor in response.outputs:
        if len(pieces) > 2:
            pieces.append(b",")
        entry, tensor = _entry(request, signature, tensor, parts)
        text = orjson.dumps(entry)
        if tensor is None:
            pieces.append(text)
        else:
            pieces.append(text.removesuffix(b"}") + b',"data":')
            pieces += to_json_pieces(tensor)
            pieces.append(b"}")
    pieces.append(b"]}")
    pieces = grouped(pieces)
    nbytes = sum(map(len, pieces)) if parts else None
    return pieces[0], pieces[1:] + parts, nbytes, BINARY if parts else JSON


cdef list grouped(list pieces):
    cdef list groups = []
    cdef list group = []
    cdef Py_ssize_t nbytes = 0
    cdef bytes piece
    pieces.reverse()
    while pieces:
        piece = pieces.pop()
        if nbytes and len(piece) >= PIECE_NBYTES:
            groups.append(b"".join(group))
            group.clear()
            nbytes = 0
        group.append(piece)
        nbytes += len(piece)
        if nbytes > PIECE_NBYTES:
            # Python copies nothing of one alone, and gives the GIL away for more than a MiB: others wait for one group.
            groups.append(b"".join(group))
            group.clear()
            nbytes = 0
    if group:
        groups.append(b"".join(group))
    return groups


cdef dict _head(InferRequest request, InferResponse response):
    cdef dict head = {}
    if request.id:
        head["id"] = request.id
    head["model_name"] = response.model_name
    head["model_version"] = str(response.model_version)
    if response.parameters:
        head["parameters"] = response.parameters
    return head


# The entry of an output, but for its data: the tensor beside it has to be written as JSON, None when none has to. One
# in binary form is added to `parts`.
cdef tuple _entry(InferRequest request, ModelSignature signature, Tensor tensor, list parts):
    cdef RequestedOutput asked = asked_output(request, tensor.name)
    cdef bint binary = request.binary_default if asked is None else asked.binary
    if asked is not None and asked.classification > 0:
        tensor = classify(tensor, asked.classification, signature.max_batch_size > 0, signature.labels(tensor.name))
    entry = {"name": tensor.name, "datatype": to_name(tensor.datatype), "shape": tensor.shape}
    if asked is not None and asked.region is not None:
        return entry, None  # Triton sends neither data nor parameters of what is in a region
    if not binary:
        return entry, tensor
    entry["parameters"] = {"binary_data_size": tensor.nbytes}
    if tensor.nbytes:
        parts.append(tensor)
    return entry, None


cdef tuple _encoded(bytes text, list parts):
    if parts:
        return text, parts, len(text), BINARY
    return text, parts, None, JSON
