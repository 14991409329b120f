# What the express lane looks at in a request head.

from libc.stdint cimport int64_t

from triton_async.protocol.http2_headers cimport HeaderList

cdef enum Rpc:
    RPC_OTHER = 0          # not for the express lane, for whatever reason
    RPC_INFER = 1          # inference.GRPCInferenceService/ModelInfer
    RPC_STREAM_INFER = 2   # inference.GRPCInferenceService/ModelStreamInfer

cdef struct CallHead:
    int rpc                # Rpc
    int64_t end_by_ns      # its deadline, CLOCK_MONOTONIC; 0: none
    int64_t answer_by_ns   # by when an answer has to be there to reach the client before; 0: never
    int64_t late_ns        # from when on its client may give up because of it; 0: never
    bint ends_on_error     # metadata triton_grpc_error: true

# Reads the header list of a request that comes at `now_ns`. Only plain heads are found to be for the express lane:
# whatever is malformed, compressed or unusual is RPC_OTHER, so that there is one place that refuses it.
cdef int read_head(HeaderList fields, int64_t now_ns, CallHead *head) except -1
