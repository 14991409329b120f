# Responses to ModelInferResponse and ModelStreamInferResponse messages, without a protobuf object.

from libc.stdint cimport int64_t

from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature

# What a message is wrapped in.
cdef enum Envelope:
    ENVELOPE_UNARY = 0     # ModelInferResponse
    ENVELOPE_STREAM = 1    # ModelStreamInferResponse, with the parameter triton_final_response

# The message as parts to be sent one after another: `bytes`, and the output tensors themselves (they export their
# bytes and hold their lease) when they are large enough to be worth a part of their own. The first part begins with
# gRPC's five-byte message prefix, uncompressed. `outputs`: the tensors to send, which are the response's own or what
# an extension made of them. Raises InvalidArg when the message would pass gRPC's limit. Any thread with the GIL.
cdef list encode(InferResponse response, list outputs, int envelope)

# The tensors to send for a response: its own list, or a new one where the request wants outputs classified.
# Raises what `classify` raises.
cdef list choose_outputs(InferResponse response, ModelSignature signature)

# Whether that takes longer than the loop has for one client: `chosen_outputs` is for another thread then.
cpdef bint is_long_choice(InferResponse response)
