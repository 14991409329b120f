"""Bodies of the generate extension: JSON whose members are inputs, outputs and parameters by their names alone."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t

from triton_async.datatypes cimport DT_BF16, DT_FP16, to_name
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor
from triton_async.memory.buffer cimport Buffer, wrap
from triton_async.protocol.http_codec cimport grouped, take_parameter
from triton_async.protocol.json_cut cimport TA_JSON_GENERATE, TA_JSON_PARAMETERS, CutJson, cut_json
from triton_async.protocol.json_tensor cimport from_json, refuse_object, to_json, to_json_pieces
from triton_async.protocol.json_text cimport loads
from triton_async.protocol.json_value cimport as_string, members

import json

import orjson

from triton_async.defines import JSON_MAX_LEFT_NBYTES, JSON_OFFLOAD_ELEMENTS, MAX_PARAMETERS_PER_REQUEST
from triton_async.errors import InvalidArg

cdef int DUMP_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
cdef object FRAGMENT = orjson.Fragment
cdef int64_t OFFLOAD_ELEMENTS = JSON_OFFLOAD_ELEMENTS


cpdef InferRequest decode_generate(str model_name, int64_t model_version, ModelSignature signature, object body,
                                   int64_t max_nbytes, int64_t received_ns):
    cdef Reader reader = Reader.__new__(Reader)
    cdef Buffer buffer = wrap(body)
    reader.json = cut_json(buffer.data, buffer.nbytes, TA_JSON_GENERATE, "Unable to parse 'data': ")
    reader.request = InferRequest(model_name, model_version, received_ns=received_ns)
    reader.specs = {(<TensorSpec>spec).name: spec for spec in signature.client_inputs}
    reader.batching = signature.max_batch_size > 0
    reader.parameters = {}
    reader.size = buffer.nbytes
    reader.max_nbytes = max_nbytes
    if reader.json.c.counts[TA_JSON_PARAMETERS] > MAX_PARAMETERS_PER_REQUEST:
        raise InvalidArg(f"request has {reader.json.c.counts[TA_JSON_PARAMETERS]} parameters and inputs, at most "
                         f"{MAX_PARAMETERS_PER_REQUEST} are supported")
    if reader.json.c.counts[TA_JSON_PARAMETERS] != _members(reader.json.document):
        reader.check_repeated()
    reader.read(reader.json.document, False)
    if reader.parameters:
        reader.request.parameters = reader.parameters
    return reader.request


@cython.final
cdef class Reader:
    """Fills one request from a parsed document."""

    cdef InferRequest request
    cdef CutJson json
    cdef dict specs               # TensorSpec of each input
    cdef bint batching
    cdef dict parameters
    cdef int64_t size             # bytes of the body
    cdef int64_t nbytes           # of the tensors so far
    cdef int64_t max_nbytes

    cdef int read(self, object document, bint nested) except -1:
        for key, item in members(document, "Unable to parse 'parameters'" if nested else ""):
            # A value is [its place], but for the object of that name, which is kept.
            if type(item) is dict:
                if key in self.specs:
                    raise InvalidArg("Keyword 'parameters' for nested schema also given as input tensor name")
                self.read(item, True)
            elif key in self.specs:
                self.add(<TensorSpec>self.specs[key], item)
            elif key == "id" and not nested:
                self.request.id = as_string(self.value(item), "Unable to parse 'id'")
            else:
                take_parameter(self.request, key, self.value(item), self.parameters)
        return 0

    # A parameter. InvalidArg for one that is too long to be any.
    cdef object value(self, object item):
        cdef bytes text = self.json.text(self.json.place(item))
        if len(text) > JSON_MAX_LEFT_NBYTES:
            raise InvalidArg(f"a parameter of {len(text)} bytes is too long, at most {JSON_MAX_LEFT_NBYTES} are "
                             "supported")
        return loads(text)

    def check_repeated(self):
        """Raises for what a dict does not show: an input that is given twice, in Triton's words."""
        cdef bytes text = PyBytes_FromStringAndSize(self.json.c.left, self.json.c.n_left)
        cdef set seen = set()

        def note(list pairs):
            # Objects inside others come first; only those of the document and of its `parameters` are left of them.
            for key, _ in pairs:
                if key in seen and key in self.specs:
                    raise InvalidArg(f"{self.request.log_prefix()}input '{key}' already exists in request")
                seen.add(key)
            return pairs

        json.loads(text, object_pairs_hook=note)

    cdef int add(self, TensorSpec spec, object item) except -1:
        cdef Tensor tensor
        cdef int64_t[TA_MAX_RANK] dims
        cdef int64_t count
        cdef int rank
        if spec.datatype == DT_FP16 or spec.datatype == DT_BF16:
            raise InvalidArg(f"input '{spec.name}' has unsupported datatype {to_name(spec.datatype)}")
        for tensor in self.request.inputs:
            if tensor.name == spec.name:
                raise InvalidArg(f"{self.request.log_prefix()}input '{spec.name}' already exists in request")
        count = self.json.count(self.json.place(item))
        rank = -1 if count < 0 else self.dims_of(spec, count, dims)
        if rank < 0 and self.json.c.text[self.json.c.spans[self.json.place(item)].at] == c'{':
            refuse_object(spec.datatype)
        if rank < 0:
            raise InvalidArg(f"The schema can not convert input '{spec.name}' to tensor with proper shape")
        tensor = from_json(spec.name, spec.datatype, dims, rank, count, self.json, item, self.max_nbytes)
        self.nbytes += tensor.nbytes
        if self.nbytes > self.max_nbytes:
            raise InvalidArg(f"request size of {self.size} bytes with input '{spec.name}' of size {tensor.nbytes} "
                             f"bytes exceeds the maximum allowed input size of {self.max_nbytes}. Use "
                             "--http-max-input-size to increase the limit.")
        self.request.inputs.append(tensor)
        return 0

    # The shape for so many elements, from the last dim on: the last variable one takes what the fixed ones leave, all
    # others are 1. Returns the rank; -1 when they do not fit.
    cdef int dims_of(self, TensorSpec spec, int64_t count, int64_t *dims) except? -1:
        cdef int rank = len(spec.dims) + self.batching
        cdef int variable = -1
        cdef int64_t fixed = 1
        cdef int i
        for i in range(rank - 1, -1, -1):
            dims[i] = -1 if self.batching and i == 0 else spec.dims[i - self.batching]
            if dims[i] >= 0:
                if dims[i] and fixed > count // dims[i]:
                    return -1
                fixed *= dims[i]
            elif variable < 0:
                variable = i
            else:
                dims[i] = 1
        if variable >= 0 and (fixed and count % fixed == 0):
            dims[variable] = count // fixed
        elif variable >= 0 or fixed != count:
            return -1
        return rank


# Inputs and parameters in a document and in its `parameters`, those that are given twice once.
cdef int64_t _members(object document) except -1:
    cdef int64_t count = 0
    if type(document) is dict:
        count = len(<dict>document)
        for item in (<dict>document).values():
            if type(item) is dict:
                count += len(<dict>item) - 1
    return count


cpdef bint is_long_generate(InferResponse response):
    cdef Tensor tensor
    cdef int64_t count = 0
    for tensor in response.outputs:
        count += tensor.element_count + (tensor.nbytes >> 3)
    return count > OFFLOAD_ELEMENTS


def encode_long_generate(InferResponse response):
    """`encode_generate` on a thread other than the loop's, which is not held up: a list of pieces."""
    cdef dict head = _head(response)
    cdef bytes text = orjson.dumps(head)
    cdef list pieces = [text[:len(text) - 1]]
    cdef Tensor tensor
    for tensor in response.outputs:
        if tensor.name in head:
            return [encode_generate(response)]  # it takes the other's place
        pieces.append(b"," + orjson.dumps(tensor.name) + b":")
        if tensor.element_count == 1:
            pieces.append(orjson.dumps(_value(tensor), None, DUMP_OPTIONS))
        else:
            pieces += to_json_pieces(tensor)
    pieces.append(b"}")
    return grouped(pieces)


cpdef bytes encode_generate(InferResponse response):
    cdef Tensor tensor
    cdef dict body = _head(response)
    for tensor in response.outputs:
        body[tensor.name] = _value(tensor)
    return orjson.dumps(body, None, DUMP_OPTIONS)


cdef dict _head(InferResponse response):
    cdef InferRequest request = <InferRequest>response.request
    cdef dict body = {"model_name": response.model_name, "model_version": str(response.model_version)}
    if request.id:
        body["id"] = request.id
    if response.parameters:
        body.update(response.parameters)
    return body


cdef object _value(Tensor tensor):
    values = to_json(tensor)
    if tensor.element_count == 1:
        return _token(tensor) if type(values) is FRAGMENT else values[0]
    return values


# NaN or an infinity, for which JSON has no number.
cdef object _token(Tensor tensor):
    return FRAGMENT(json.dumps(float(tensor.numpy().reshape(-1)[0])).encode())
