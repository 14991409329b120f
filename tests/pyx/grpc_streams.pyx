"""What ModelStreamInfer calls hold, and answers as a model would give them. On the loop's thread."""

from triton_async.frontends.grpc.express.connection cimport ExpressConnection
from triton_async.frontends.grpc.express.stream cimport StreamInfer
from triton_async.frontends.grpc.stream_requests cimport Slot, StreamRequests
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse


def streams(ExpressConnection connection):
    """The open streams of the express lane on a connection."""
    return [stream for stream in connection.streams.values() if isinstance(stream, StreamInfer)]


def requests_of(StreamInfer stream):
    """Its StreamRequests; None when the call is over."""
    return stream.requests


def backlog_of(StreamInfer stream):
    """Its Backlog; None when there never was one."""
    return stream.backlog


def unconsumed(StreamInfer stream):
    """Bytes that were received and not given back to the client's window."""
    return stream.unconsumed_nbytes


def slots(StreamRequests requests):
    """Request id -> slot, of those that the server has."""
    cdef Slot slot
    return {slot.request.id: slot for slot in requests.slots if slot.request is not None}


def unsent(StreamRequests requests):
    """Answers whose bytes have not left."""
    return len(requests.unsent)


def may_read(StreamRequests requests):
    return requests.has_room()


def deliver(Slot slot, list outputs, bint final=False, error=None):
    """One response, as from the model."""
    cdef InferRequest request = slot.request
    slot.deliver(InferResponse(request, request.model_name, 1, outputs, None, error, final))


def congested(Slot slot):
    return slot.congested()


def on_relief(Slot slot, resume):
    slot.on_relief(resume)
