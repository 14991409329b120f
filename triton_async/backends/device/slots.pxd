# The slots of a device instance: input buffers, events, captured graphs, and what is running in each.

from libc.stdint cimport int32_t, int64_t

from triton_async.backends.device.copies cimport Output
from triton_async.infer.batch cimport ta_batch
from triton_async.memory.cuda cimport ta_cuda_event, ta_cuda_graph, ta_device_ptr

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t *semaphore, int shared, unsigned value)
    int sem_destroy(sem_t *semaphore)
    int sem_wait(sem_t *semaphore)
    int sem_trywait(sem_t *semaphore)
    int sem_post(sem_t *semaphore)

# A run captured in one slot. `dims`: of all inputs, one after the other, the batch dimension included.
cdef struct Graph:
    ta_cuda_graph handle
    int64_t rows                # 0 when the model has no batch dimension
    int64_t least_rows          # that it serves, padded
    int64_t *dims
    int32_t *ranks              # of the inputs
    int64_t *nbytes             # of the inputs
    Output *outputs

# The instance thread uses `inputs` and `capacities` once the run before has consumed the inputs, everything else from
# taking `free` to posting `issued`; in between the completion thread has the slot.
cdef struct Slot:
    sem_t free
    ta_device_ptr *inputs
    int64_t *capacities
    ta_batch *batch             # NULL: an order to stop
    Output *outputs             # of the run in it
    int32_t n_late
    ta_cuda_event copied        # timing: inputs are in; the instance lends it for one batch
    ta_cuda_event ran           # on the run stream
    ta_cuda_event ran_at        # timing: the same moment, as the copy-out stream sees it
    ta_cuda_event done          # timing: outputs are out
    ta_cuda_event own_consumed  # recorded by the engine; NULL when it does not
    ta_cuda_event consumed      # the one that says it of the last run; NULL when none does
    Graph *graphs               # ascending by rows
    int32_t n_graphs

# Allocates the arrays of a zeroed slot. MemoryError.
cdef int make_slot(Slot *slot, int n_inputs, int n_outputs) except -1
cdef void free_slot(Slot *slot) noexcept

# Makes `target` the DeviceTensor that an engine gave.
cdef int set_output(Output *target, tensor) except -1

# The first graph in which the batch fits, or NULL.
cdef const Graph *find_graph(const Slot *slot, const ta_batch *batch) noexcept nogil
# Adds an empty graph, its arrays allocated. MemoryError.
cdef Graph *add_graph(Slot *slot, int n_inputs, int n_outputs) except NULL
cdef void free_graph(Graph *graph) noexcept

cdef void take(sem_t *semaphore) noexcept nogil
