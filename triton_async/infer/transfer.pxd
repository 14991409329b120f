# What core copies between GPUs and the host for a batch, where its instance does not.

from libc.stdint cimport int32_t, int64_t

from triton_async.infer.batch cimport ta_batch, ta_placement
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool

# Used by one thread at a time, without the GIL, which it takes to make another GPU current and to word an error.
# Copies block; what they wrote is there when a method returns.
cdef class Transfer:
    cdef SlabPool pool
    cdef object use              # (device_id): makes a GPU current for the calling thread
    cdef int home                # GPU that is current for the thread outside of these methods; -1: none is needed
    cdef int current             # GPU that is, as far as known; -1: unknown
    cdef bint moved              # `current` is no longer what the method found
    cdef int found               # GPU that the method found current, where `home` does not say; -1: unknown
    cdef bint written            # copies to GPUs are not known to be complete
    cdef bint copied             # the method has copied anything
    cdef int lost                # why copies to GPUs may never complete; 0: they will
    cdef str problem             # why `use` failed

    # Brings inputs in GPU memory to host slabs: all of them, or only those that the host has to read (BYTES, whose
    # framing is then checked). A batch that cannot be staged fails. Before `submit`.
    cdef void stage(self, ta_batch *batch, bint everything) noexcept nogil
    # Puts every placement where it belongs that the instance did not, and brings what responses carry to the host.
    # After `check_batch`; does nothing for a batch that failed.
    cdef void settle(self, ta_batch *batch) noexcept nogil
    # The next method runs on a thread of which nothing is known.
    cdef void forget(self) noexcept nogil
    # For engines that answer by request, with the GIL, which is held throughout.
    # `tensor`, an output that `request` asks for, where that takes it: on the host, unless it goes to a region or is
    # taken anywhere. InternalError when it cannot be copied.
    # What is still computed on the legacy default stream of its GPU is waited for.
    cdef Tensor brought(self, InferRequest request, Tensor tensor)
    # Waits for the legacy default stream of a GPU. None, or why that failed.
    cdef str awaited(self, int device_id)
    # Copies the outputs that go to regions there, and leaves their bytes out of the response. None, or an error.
    cdef object place_response(self, InferResponse response)

    cdef int _stage_input(self, ta_batch *batch, int index) noexcept nogil
    cdef int _to_host(self, ta_batch *batch, int index) noexcept nogil
    cdef void _place(self, ta_batch *batch, ta_placement *placement, int64_t start, int64_t end) noexcept nogil
    cdef int _copy(self, char *to, const char *source, int64_t nbytes, int32_t device_id) noexcept nogil
    cdef int _make_current(self, int device_id) noexcept nogil
    cdef int _go_back(self) except -1
    cdef int _flush(self) noexcept nogil
    cdef int _finish(self, ta_batch *batch) noexcept nogil
    cdef int _place_tensor(self, Tensor tensor, Buffer region, ta_placement *placement) except -1
    cdef str _reason(self, int result)
    cdef int _fail(self, ta_batch *batch, str what, int result) noexcept
