# An instance of a model on a GPU: slots, streams and the thread that completes batches, around a DeviceEngine.

from libc.stdint cimport int32_t, int64_t

from triton_async.backends.base cimport ModelInstance
from triton_async.backends.device.copies cimport Copies, Output
from triton_async.backends.device.slots cimport Graph, Slot, sem_t
from triton_async.infer.batch cimport ta_batch, ta_tensor
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.cuda cimport ta_cuda, ta_cuda_event, ta_cuda_stream

cdef enum:
    SLOTS = 2                   # DEVICE_SLOTS
    COPIED_EVENTS = SLOTS + 1   # the next batch is copied in while both slots' times are still to be read

# The way of a batch: `submit` waits until the inputs of the next slot were consumed, copies in, waits until the slot is
# free, puts run and copies out on their streams and leaves it to the completion thread, in order. A batch that fails
# on its way takes the same way, so that it is answered in its turn, when no stream touches its memory any more.
#
# Everything is made, used and closed on the instance's thread, but for `_complete*`: the completion thread.
cdef class DeviceInstance(ModelInstance):
    cdef object engine                  # DeviceEngine, owned
    cdef object devices                 # memory.devices.Devices
    cdef object memory                  # acquire(nbytes): Buffer of device memory, aligned to DEVICE_ALIGNMENT
    cdef list buffers                   # of each slot, a Buffer for each input, None where it is read on the host
    cdef object options                 # SlotOptions
    cdef ModelSignature signature
    cdef tuple shapes                   # GraphShape of every graph to capture
    cdef list pools                     # keeps the slab pools that `copies` points at
    cdef int32_t device
    cdef int n_inputs
    cdef int n_outputs
    cdef bint *on_host                  # inputs that the engine reads on the host
    cdef bint in_place                  # the engine reads inputs wherever they lie on the device
    cdef Copies copies
    cdef const ta_cuda *cuda
    cdef ta_cuda_stream copy_in_stream
    cdef ta_cuda_stream run_stream
    cdef ta_cuda_stream copy_out_stream
    cdef Slot[SLOTS] slots
    cdef ta_cuda_event[COPIED_EVENTS] copied
    cdef list events                    # all of them, to destroy
    cdef int64_t submitted              # batches so far; instance thread
    cdef int64_t finished               # the same of the completion thread
    cdef int64_t last_ran_ns            # when the run before ended; completion thread
    cdef sem_t issued                   # posted for each batch that the completion thread is to wait for
    cdef bint issued_made
    cdef object thread

    cdef ta_cuda_event _event(self, bint timing) except NULL

    # Instance thread.
    cdef bint _claim(self, Slot *slot) noexcept nogil
    cdef bint _fits(self, const Slot *slot, const ta_batch *batch) noexcept nogil
    # Whether the engine gets this input where the request has it, and no copy.
    cdef bint _lies_well(self, const ta_tensor *input) noexcept nogil
    cdef int _grow(self, int index, ta_batch *batch) noexcept
    cdef void _wait_for_others(self, int index) noexcept
    cdef int _copy_inputs(self, Slot *slot, ta_batch *batch, const Graph *graph, ta_cuda_event copied) noexcept nogil
    cdef int _run(self, int index, Slot *slot, ta_batch *batch, const Graph *graph) noexcept nogil
    cdef int _run_graph(self, Slot *slot, const ta_batch *batch, const Graph *graph) noexcept nogil
    cdef int _enqueue(self, int index, Slot *slot, ta_batch *batch) noexcept
    cdef int _copy_outputs(self, Slot *slot, ta_batch *batch) noexcept nogil
    # Fails the batch with a CUresult, or NO_HOST_MEMORY; `doing`: what was being done.
    cdef void _fail(self, ta_batch *batch, int result, const char *doing) noexcept nogil
    # Any thread.
    cdef void _note(self, int result) noexcept nogil

    # Completion thread.
    cdef void _complete_all(self) noexcept nogil
    cdef void _complete(self, int index, Slot *slot, ta_batch *batch) noexcept nogil
    cdef void _read_times(self, const Slot *slot, ta_batch *batch, int64_t end_ns) noexcept nogil
    cdef int _late_outputs(self, int index, Slot *slot, ta_batch *batch) noexcept
