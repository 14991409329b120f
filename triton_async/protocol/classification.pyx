"""The classification extension: the N highest scores of an output, as strings."""

from libc.stdint cimport int64_t
from posix.unistd cimport usleep

from triton_async.datatypes cimport DT_BYTES, DT_FP32, DT_FP64, DT_INT64, DT_UINT8, nbytes, to_name
from triton_async.infer.tensor cimport Tensor, view
from triton_async.memory.buffer cimport wrap

import numpy as np

from triton_async.defines import CLASSIFICATION_MAX
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.tensor import encode_bytes

# Strings made in one go while others wait for the GIL, and the pause behind them: 0.2 ms and a little more.
cdef int MANY = 256
cdef unsigned int PAUSE_US = 20


cdef Tensor classify(Tensor tensor, int64_t wanted, bint batched, tuple labels):
    cdef bint real = tensor.datatype == DT_FP32 or tensor.datatype == DT_FP64
    cdef int64_t rows = 1
    cdef int64_t classes, taken
    cdef list pieces = []
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
            _append(pieces, scores, real, taken, labels)
    shape = [rows, taken] if batched else [taken]
    encoded = b"".join(pieces)
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


# Adds the encoded strings of a row.
cdef int _append(list pieces, object scores, bint real, int64_t taken, tuple labels) except -1:
    cdef Py_ssize_t known = len(labels)
    cdef Py_ssize_t first
    cdef list strings
    order = _highest(scores, real, taken)
    for first in range(0, taken, MANY):
        strings = []
        some = order[first:first + MANY]
        for index, score in zip(some.tolist(), scores[some].tolist(), strict=True):
            # std::to_string: six decimals for floating point.
            text = f"{score:.6f}:{index}" if real else f"{score}:{index}"
            strings.append(f"{text}:{labels[index]}" if index < known and labels[index] else text)
        pieces.append(encode_bytes(strings))
        if taken > MANY:
            # On a thread of its own: others that run Python get their turn.
            with nogil:
                usleep(PAUSE_US)
    return 0
