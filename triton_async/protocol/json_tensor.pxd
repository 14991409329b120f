# Tensor values as JSON: `data` arrays of requests into tensor bytes, tensors of responses into `data` arrays.

from libc.stdint cimport int64_t

from triton_async.infer.tensor cimport Tensor
from triton_async.protocol.json_cut cimport CutJson

# Tensor with the values that `data` stands for in what is left of `cut`: flat, or nested exactly like `dims`. At most
# `max_nbytes` bytes; `count` is the product of dims. Raises InvalidArg with Triton's words. For BYTES the number of
# elements is not compared with the shape here: validation does, in Triton's words for it. Any thread.
cdef Tensor from_json(str name, int datatype, const int64_t *dims, int rank, int64_t count, CutJson cut, object data,
                      int64_t max_nbytes)

# Raises InvalidArg, in Triton's words for an object in the place of an element.
cdef int refuse_object(int datatype) except -1

# The JSON array of a tensor's values, row-major: something orjson.dumps takes with OPT_SERIALIZE_NUMPY.
cdef object to_json(Tensor tensor)

# The same as text, in pieces: for a tensor of any size, on a thread other than the loop's, which is not held up.
cdef list to_json_pieces(Tensor tensor)
