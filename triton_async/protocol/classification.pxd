# The classification extension: the N highest scores of an output, as strings.

from libc.stdint cimport int64_t

from triton_async.infer.tensor cimport Tensor

# BYTES tensor of `<score>:<index>[:<label>]`, highest score first, equal scores in index order, NaN last; shape
# [min(wanted, classes)], with `batched` [rows, min(wanted, classes)] and the classes counted per row. The bytes
# are new. InvalidArg for a datatype without an order, and beyond CLASSIFICATION_MAX strings.
cdef Tensor classify(Tensor tensor, int64_t wanted, bint batched, tuple labels)
