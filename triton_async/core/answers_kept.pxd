# Answers as bytes, for caches outside of this process: others may have written there, so what is read is checked.
# Little-endian, in this order, each tensor's bytes at a multiple of ALIGNMENT:
#
#   4  magic, with the version of this form        per parameter: name, kind, value
#   4  CRC-32 of all that follows                  per output: name, datatype, rank, dims, length, padding, bytes
#  16  the key
#   2  parameters, 0xFFFF: there are none; 2  outputs

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature

# Bytes of the answer, or None for one that has no such form or more than `most_nbytes`. Host memory only.
cpdef bytes encode_answer(bytes key, InferResponse response, int64_t most_nbytes)

# The answer to `request`, or None when these bytes are none. Its tensors lie in `value`. Copies nothing.
cpdef InferResponse decode_answer(bytes value, bytes key, InferRequest request, ModelSignature signature)
