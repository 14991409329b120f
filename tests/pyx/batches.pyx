"""Batches with inputs and placements anywhere in memory, for the tests."""

from libc.stdlib cimport calloc, free

from triton_async.backends.base cimport ModelInstance
from triton_async.infer.batch cimport Batch, ta_placement
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.buffer cimport foreign

from triton_async.infer.tensor import from_numpy


cdef void _keep(void *owner) noexcept nogil:
    pass


def tensor_at(str name, array, size_t address, int memory_type, int device_id=0):
    """A Tensor of the array's type and shape whose bytes are said to be at `address`."""
    cdef Tensor tensor = from_numpy(name, array)
    tensor.buffer = foreign(<char *>address, tensor.nbytes, NULL, _keep, memory_type, device_id)
    tensor.data = <char *>address
    return tensor


def place_of(Tensor tensor):
    """Where its bytes are: (address, memory type, device)."""
    return <size_t>tensor.data, tensor.buffer.memory_type, tensor.buffer.device_id


def run_placed(ModelInstance instance, ModelSignature signature, requests, placements, *, wanted=None):
    """Runs one batch. `placements`: (address, capacity, memory type, output, request, row, rows) each; `wanted`: value
    for each output. (responses, (placed, nbytes) of each placement, memory type of each output)."""
    cdef Batch batch = Batch(signature)
    cdef InferRequest request
    cdef int i
    cdef ta_placement *made = <ta_placement *>calloc(len(placements) + 1, sizeof(ta_placement))
    try:
        for request in requests:
            signature.validate(request)
            batch.add(request)
        batch.close()
        for i in range(len(placements)):
            address, capacity, memory_type, output, number, row, rows = placements[i]
            made[i].data = <char *><size_t>address
            made[i].capacity = capacity
            made[i].memory_type = memory_type
            made[i].output = output
            made[i].request = number
            made[i].row = row
            made[i].rows = rows
        batch.c.placements = made
        batch.c.n_placements = len(placements)
        for i, value in enumerate(wanted or ()):
            batch.c.outputs[i].wanted = value
        with nogil:
            instance.submit(&batch.c)
            instance.drain()
        kinds = [batch.c.outputs[i].memory_type for i in range(batch.c.n_outputs)]
        results = [(made[i].placed, made[i].nbytes) for i in range(len(placements))]
        batch.c.n_placements = 0
        batch.c.placements = NULL
        return batch.finish(), results, kinds
    finally:
        free(made)
