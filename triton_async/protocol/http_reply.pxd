# Complete HTTP responses of the infer call as bytes, for the express lane; equal to what the slow lane sends.
# No sockets, no event loop. `tail` is what follows the Content-Length value: reply_tail().

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.protocol.http_repeat cimport KnownReply

# The response without error: `bytes` when it is small, else a list of objects with the buffer protocol that keep
# the leases of the outputs and are to be written in order. When the client asks for a `coding` (http_coding) and the
# body is worth it, what encode_infer returns, a tuple, for packed_reply. Raises ServerError when an output cannot be
# written. None for one that is long to encode: `encode_long` makes what general_reply takes of it, on another thread.
# `known`: the last reply to such a request, which is used, or becomes this one; None when it is not worth it.
cdef object infer_reply(InferRequest request, InferResponse response, ModelSignature signature, int coding, bytes tail,
                        KnownReply known)

# The response of what encode_infer, or encode_long, has made; or that, for packed_reply.
cdef object general_reply(tuple encoded, int coding, bytes tail)

# The same response with its body compressed, which is `body`.
cdef list packed_reply(tuple encoded, int coding, bytes body, bytes tail)

# 200 with the JSON in `pieces`, which are not empty: the bytes of it, or a list of those in front of the pieces.
cdef object json_reply(list pieces, bytes tail)

# The head of a stream of server-sent events, whose body comes in chunks, or ends with the connection.
cdef bytes events_head(int status, bint chunked, bytes tail)

# A part of such a stream as it is sent: `head`, b"" behind the first part, then `pieces`, then its end where this is
# the `last` part. Adds up the bytes of the pieces.
cdef list event_parts(bytes head, list pieces, bint chunked, bint last, int64_t *nbytes)

# {"error": message} with an HTTP status.
cdef bytes error_reply(int status, str message, bytes tail)

# End of every head: the date, and a Connection field unless `connection` is "".
cpdef bytes reply_tail(str date, str connection)

# Makes a whole response, which nobody else has seen yet, one for an HTTP/1.0 client.
cdef void set_old(object reply) noexcept
