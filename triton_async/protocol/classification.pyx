"""The classification extension: the N highest scores of an output, as strings."""

from libc.stdint cimport int64_t

from triton_async.datatypes cimport DT_BYTES, DT_FP32, DT_FP64, DT_INT64, DT_UINT8, nbytes, to_name
from triton_async.infer.tensor cimport Tensor, view
from triton_async.memory.buffer cimport wrap

import numpy as np

from triton_async.defines import CLASSIFICATION_MAX
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.tensor import encode_bytes


cdef Tensor classify(Tensor tensor, int64_t wanted, bint batched, tuple labels):
    cdef bint real = tensor.datatype == DT_FP32 or tensor.datatype == DT_FP64
    cdef int64_t rows = 1
    cdef int64_t classes, taken
    cdef list strings = []
    if not real and not DT_UINT8 <= tensor.datatype <= DT_INT64:
        raise InvalidArg("class result not available for output due to unsupported type "
                         f"'{to_name(tensor.datatype)}'")
    if nbytes(tensor.element_count, tensor.datatype) != tensor.nbytes:
        raise InternalError(f"output tensor shape does not match size of output for '{tensor.name}'")
    batched = batched and tensor.rank > 0
    if batched:
        rows = tensor.dims[0]
    classes = tensor.element_count // rows if rows else 0
    taken = min(wanted, classes)
    if classes > CLASSIFICATION_MAX:
        raise InvalidArg("classification output tensor too large")
    if rows * taken > CLASSIFICATION_MAX:
        raise InvalidArg(f"classification of output '{tensor.name}' gives {rows * taken} strings, at most "
                         f"{CLASSIFICATION_MAX} are supported")
    if taken:
        for scores in tensor.numpy().reshape(rows, classes):
            _append(strings, scores, real, taken, labels)
    shape = [rows, taken] if batched else [taken]
    encoded = encode_bytes(strings)
    return view(tensor.name, DT_BYTES, shape, wrap(encoded) if encoded else None, 0, len(encoded))


# Order of the `taken` highest scores.
cdef object _highest(object scores, bint real, int64_t taken):
    # Both keys fall as the score rises, without overflow, and leave NaN at the end.
    keys = -scores if real else ~scores
    if taken * 4 < len(keys):
        bound = np.partition(keys, taken - 1)[taken - 1]
        if bound == bound:
            candidates = np.flatnonzero(keys <= bound)
            return candidates[np.argsort(keys[candidates], kind="stable")[:taken]]
    return np.argsort(keys, kind="stable")[:taken]


cdef int _append(list strings, object scores, bint real, int64_t taken, tuple labels) except -1:
    order = _highest(scores, real, taken)
    known = len(labels)
    for index, score in zip(order.tolist(), scores[order].tolist(), strict=True):
        # std::to_string: six decimals for floating point.
        text = f"{score:.6f}:{index}" if real else f"{score}:{index}"
        strings.append(f"{text}:{labels[index]}" if index < known and labels[index] else text)
    return 0
