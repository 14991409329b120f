"""Memory of the slots, and the choice of a graph. The instance's thread, or before it shares a slot."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memset

from triton_async.backends.device.copies cimport Output
from triton_async.infer.batch cimport ta_batch, ta_tensor
from triton_async.memory.cuda cimport ta_device_ptr

from triton_async.errors import InternalError


cdef void *_zeroed(size_t count, size_t size) except NULL:
    cdef void *memory = calloc(count + 1, size)  # never of no bytes
    if memory == NULL:
        raise MemoryError
    return memory


cdef int make_slot(Slot *slot, int n_inputs, int n_outputs) except -1:
    if sem_init(&slot.free, 0, 1) != 0:
        raise MemoryError
    slot.inputs = <ta_device_ptr *>_zeroed(n_inputs, sizeof(ta_device_ptr))
    slot.capacities = <int64_t *>_zeroed(n_inputs, sizeof(int64_t))
    slot.outputs = <Output *>_zeroed(n_outputs, sizeof(Output))
    return 0


cdef void free_slot(Slot *slot) noexcept:
    if slot.inputs != NULL:
        sem_destroy(&slot.free)
    free(slot.inputs)
    free(slot.capacities)
    free(slot.outputs)
    free(slot.graphs)
    memset(slot, 0, sizeof(Slot))


cdef int set_output(Output *target, tensor) except -1:
    cdef int i
    dims = tensor.dims
    if len(dims) > 16:
        raise InternalError(f"an output has {len(dims)} dimensions, more than 16")
    target.address = tensor.address
    target.nbytes = tensor.nbytes
    target.rank = len(dims)
    target.late = False
    for i in range(target.rank):
        target.dims[i] = dims[i]
    return 0


cdef const Graph *find_graph(const Slot *slot, const ta_batch *batch) noexcept nogil:
    cdef int i
    for i in range(slot.n_graphs):
        if _fits(&slot.graphs[i], batch):
            return &slot.graphs[i]
    return NULL


cdef bint _fits(const Graph *graph, const ta_batch *batch) noexcept nogil:
    cdef const int64_t *dims = graph.dims
    cdef const ta_tensor *input
    cdef int batching = graph.rows > 0
    cdef int i
    if batching and not graph.least_rows <= batch.rows <= graph.rows:
        return False
    for i in range(batch.n_inputs):
        input = &batch.inputs[i]
        if not input.wanted or input.rank != graph.ranks[i]:
            return False
        # Everything but the batch dimension, which may be padded, has to be equal.
        if memcmp(input.dims + batching, dims + batching, (input.rank - batching) * sizeof(int64_t)) != 0:
            return False
        dims += input.rank
    return True


cdef Graph *add_graph(Slot *slot, int n_inputs, int n_outputs) except NULL:
    cdef Graph *graphs = <Graph *>realloc(slot.graphs, (slot.n_graphs + 1) * sizeof(Graph))
    cdef Graph *graph
    if graphs == NULL:
        raise MemoryError
    slot.graphs = graphs
    graph = &graphs[slot.n_graphs]
    memset(graph, 0, sizeof(Graph))
    try:
        graph.dims = <int64_t *>_zeroed(n_inputs * 16, sizeof(int64_t))
        graph.ranks = <int32_t *>_zeroed(n_inputs, sizeof(int32_t))
        graph.nbytes = <int64_t *>_zeroed(n_inputs, sizeof(int64_t))
        graph.outputs = <Output *>_zeroed(n_outputs, sizeof(Output))
    except MemoryError:
        free_graph(graph)
        raise
    slot.n_graphs += 1
    return graph


cdef void free_graph(Graph *graph) noexcept:
    free(graph.dims)
    free(graph.ranks)
    free(graph.nbytes)
    free(graph.outputs)


cdef void take(sem_t *semaphore) noexcept nogil:
    while sem_wait(semaphore) != 0 and errno == EINTR:
        pass
