# Typed contents of an input (InferTensorContents) to packed tensor bytes.

from triton_async.memory.buffer cimport Buffer
from triton_async.protocol.wire cimport ta_wire

# Bytes of all `contents` fields of the InferInputTensor `input`, laid out as raw contents of `datatype` would be.
# Several `contents` count as one merged message, as protobuf has it. Raises InvalidArg, in Triton's words, when the
# elements do not belong to the datatype, and when one is out of its range.
cdef Buffer pack_contents(ta_wire input, int datatype, str name, str model_name)
