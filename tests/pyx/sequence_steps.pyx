"""What the sequence batcher brings to a request, and takes from it, for the tests."""

from libc.stdint cimport int64_t

from triton_async.core.sequence_table cimport SEQUENCE_IDLE, Lane, Sequence, Slot
from triton_async.core.sequences cimport SequenceBatcher
from triton_async.infer.batch cimport Batch
from triton_async.infer.request cimport REQUEST_DONE, REQUEST_QUEUED, REQUEST_RUNNING, InferRequest, Origin
from triton_async.infer.response cimport InferResponse


def injected(SequenceBatcher batcher, InferRequest request):
    """The tensors that the model gets beside those of the client, by name."""
    cdef list found = request.slots[len(batcher.signature.client_inputs):]
    return {tensor.name: tensor.numpy() for tensor in found if tensor is not None}


def rows_of(Batch batch):
    """Its requests in the order of rows; None where there is none."""
    return [None if (<InferRequest>request).padding else request for request in batch.requests]


def padding_of(Batch batch):
    """The inputs of the rows without a request: a list of arrays for each, in signature order."""
    return [[None if tensor is None else tensor.numpy() for tensor in (<InferRequest>request).slots]
            for request in batch.requests if (<InferRequest>request).padding]


def answer(SequenceBatcher batcher, InferRequest request, list outputs, int64_t now_ns):
    """A step is over, with these outputs (Tensors), states among them. What a client gets: a response."""
    cdef InferResponse response = InferResponse(request, "m", 1, outputs)
    error = batcher.take_states(response)
    batcher.done(request, now_ns)
    request.state = REQUEST_DONE
    return error if error is not None else response


def state_of(InferRequest request):
    return {REQUEST_QUEUED: "queued", REQUEST_RUNNING: "running", REQUEST_DONE: "done"}.get(request.state, "new")


def set_origin(InferRequest request, Origin origin):
    request.origin = origin


def check(SequenceBatcher batcher):
    """The invariants of the batcher."""
    cdef Slot slot
    cdef Sequence sequence
    cdef Lane lane
    cdef int64_t owned = 0
    owners = set()
    for slot in batcher.slots.values():
        if slot.owner is not None:
            owned += 1
            assert slot.owner.slot is slot and slot.owner.generation == slot.generation
            assert id(slot.owner) not in owners
            owners.add(id(slot.owner))
            assert slot.number not in batcher.free
        else:
            assert batcher.free.count(slot.number) == 1
    assert owned + len(batcher.free) == len(batcher.slots)
    assert batcher.backlog.size == 0 or (batcher.unmade == 0 and not batcher.free)
    assert batcher.live == owned + batcher.backlog.size
    for sequence in batcher.by_id.values():
        assert sequence.state != SEQUENCE_IDLE or sequence.first is None
        assert sequence.slot is not None or sequence.first is not None
    for lane in batcher.lane_order:
        assert lane.n_ready == lane.ready.size
