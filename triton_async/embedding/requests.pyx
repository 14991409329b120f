"""Requests of NumPy arrays and Python values, refused with the words that HTTP's clients hear. Any thread."""

import numpy as np

from triton_async.datatypes cimport from_name, itemsize, to_name
from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.tensor cimport TA_MAX_RANK
from triton_async.protocol.http_codec cimport take_parameter

from triton_async.defines import MAX_PARAMETERS_PER_REQUEST
from triton_async.errors import InvalidArg
from triton_async.infer.tensor import from_numpy


def make_request(
    model, inputs, *, version=-1, outputs=None, request_id="", parameters=None, sequence_id=0, sequence_start=False,
    sequence_end=False, priority=0, timeout_us=0,
):
    """InferRequest of what `Server.infer` takes. InvalidArg. Contiguous arrays are not copied, but kept."""
    if not isinstance(model, str):
        raise InvalidArg(f"the name of a model must be a str, not {type(model).__name__}")
    if type(version) is not int or not -1 <= version <= 0x7FFFFFFFFFFFFFFF:
        raise InvalidArg(f"failed to get model version from specified version string '{version}' (details: a number "
                         "is expected), version should be an integral value > 0")
    if not isinstance(request_id, str):
        raise InvalidArg("Unable to parse 'id': a str is expected")
    cdef InferRequest request = InferRequest(model, version, request_id)
    if not hasattr(inputs, "items"):
        raise InvalidArg("inputs must be a mapping of names to arrays")
    for name, value in inputs.items():
        request.inputs.append(_tensor(name, value))
    if isinstance(outputs, str):
        raise InvalidArg("outputs must be names, not one str")
    for name in outputs or ():
        if not isinstance(name, str):
            raise InvalidArg(f"the name of an output must be a str, not {type(name).__name__}")
        request.outputs.append(RequestedOutput(name))
    _take_parameters(request, parameters, {
        "sequence_id": sequence_id, "sequence_start": sequence_start, "sequence_end": sequence_end,
        "priority": priority, "timeout": timeout_us,
    })
    return request


cdef int _take_parameters(InferRequest request, object parameters, dict named) except -1:
    cdef dict others = {}
    for key, value in named.items():
        if value is not False and (type(value) is not int or value != 0):
            take_parameter(request, key, value, others)
    if parameters:
        if len(parameters) > MAX_PARAMETERS_PER_REQUEST:
            raise InvalidArg(f"request has more than {MAX_PARAMETERS_PER_REQUEST} parameters")
        for key, value in parameters.items():
            if not isinstance(key, str):
                raise InvalidArg(f"the key of a parameter must be a str, not {type(key).__name__}")
            if key in named:
                raise InvalidArg(f"'{key}' is no parameter of its own: there is an argument for it")
            take_parameter(request, key, value, others)
        request.parameters = others or None
    return 0


cdef object _tensor(object name, object value):
    cdef int datatype = 0
    if not isinstance(name, str):
        raise InvalidArg(f"the name of an input must be a str, not {type(name).__name__}")
    if type(value) is tuple and len(value) == 2 and isinstance(value[1], str):
        value, named = value
        datatype = from_name(named)
        if datatype == 0:
            raise InvalidArg(f"invalid datatype '{named}' for input '{name}'")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidArg(f"input '{name}' is no array: {error}") from None
    if array.ndim > TA_MAX_RANK:
        raise InvalidArg(f"tensor '{name}' has {array.ndim} dimensions, at most {TA_MAX_RANK} are supported")
    if array.dtype.name == "bfloat16":  # of the package ml_dtypes
        array, datatype = array.view(np.uint16), datatype or from_name("BF16")
    if datatype == from_name("BYTES") and array.dtype.kind not in "OSU":
        raise InvalidArg(f"input '{name}' is given as BYTES, but its elements are {array.dtype}")
    if datatype and datatype != from_name("BYTES") and array.dtype.itemsize != itemsize(datatype):
        raise InvalidArg(f"input '{name}' is given as {to_name(datatype)}, but its elements are {array.dtype}")
    return from_numpy(name, array, datatype or None)
