"""Gathers inputs on the GPU, without the GIL: a lone aligned segment is used in place, others are copied."""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free

from triton_async.backends.onnxruntime.api cimport (
    ort_allocator_alloc,
    ort_allocator_free,
    ort_create_allocator,
    ort_get_error_message,
    ort_release_allocator,
    ort_release_status,
    ort_set_current_gpu,
    ort_status,
)
from triton_async.backends.onnxruntime.session cimport Session
from triton_async.codes cimport TA_CODE_INTERNAL
from triton_async.infer.batch cimport ta_batch, ta_segment, ta_tensor
from triton_async.infer.gather cimport ta_batch_fail
from triton_async.memory.buffer cimport MEMORY_GPU
from triton_async.memory.cuda cimport cuda_api, ta_cuda_describe, ta_device_ptr

from triton_async.defines import DEVICE_ALIGNMENT
from triton_async.errors import InternalError
from triton_async.memory.cuda import load_driver

# What the engine's own GPU allocator gives, and its kernels may rely on: a misaligned access there ends the
# process's use of the GPU.
cdef uintptr_t ALIGNMENT = DEVICE_ALIGNMENT


cdef bint on_device(const ta_tensor *input) noexcept nogil:
    cdef int i
    for i in range(input.n_segments):
        if input.segments[i].memory_type == MEMORY_GPU:
            return True
    return False


cdef bint is_aligned(const void *data) noexcept nogil:
    return <uintptr_t>data % ALIGNMENT == 0


# __dealloc__ uses the fields.
@cython.final
@cython.no_gc_clear
cdef class DeviceInputs:
    """Takes `count` inputs of an instance of `session`, which is on a GPU. InternalError when that does not work."""

    def __init__(self, Session session, int count):
        self.session = session
        self.api = session.library.api
        self.count = count
        try:
            load_driver()
        except OSError as error:
            raise InternalError(f"the CUDA driver can not be used: {error}") from None
        self.cuda = cuda_api()
        self.scratch = <Scratch *>calloc(count + 1, sizeof(Scratch))
        if self.scratch == NULL:
            raise MemoryError
        session.library.check(ort_set_current_gpu(self.api, session.device))
        session.library.check(ort_create_allocator(self.api, session.session, session.device_info, &self.allocator))

    def close(self):
        """Gives the memory back. Before the session ends; safe to call twice."""
        cdef int i
        cdef ort_status *status
        if self.allocator != NULL:
            for i in range(self.count):
                if self.scratch[i].data != NULL:
                    status = ort_allocator_free(self.api, self.allocator, self.scratch[i].data)
                    if status != NULL:
                        ort_release_status(self.api, status)
            ort_release_allocator(self.api, self.allocator)
            self.allocator = NULL

    def __dealloc__(self):
        if self.allocator != NULL:
            ort_release_allocator(self.api, self.allocator)
        free(self.scratch)

    cdef int gather(self, ta_batch *batch, int index) noexcept nogil:
        cdef ta_tensor *input = &batch.inputs[index]
        cdef ta_segment *segment = input.segments
        cdef int device = self.session.device
        cdef ta_device_ptr to
        cdef int result
        cdef int i
        input.memory_type = MEMORY_GPU
        input.device_id = device
        if input.n_segments == 1 and segment.device_id == device and is_aligned(segment.data):
            input.data = <char *>segment.data
            return 0
        if self._reserve(batch, index, input.nbytes) < 0:
            return -1
        input.data = <char *>self.scratch[index].data
        to = <ta_device_ptr><uintptr_t>input.data
        for i in range(input.n_segments):
            segment = &input.segments[i]
            if segment.nbytes == 0:
                continue
            result = self.cuda.memcpy_async(to, <ta_device_ptr><uintptr_t>segment.data, segment.nbytes, NULL)
            if result:
                return self._failed(batch, result)
            to += segment.nbytes
        # The engine's stream does not wait for the default one by itself.
        result = self.cuda.stream_synchronize(NULL)
        return self._failed(batch, result) if result else 0

    # Makes the scratch of an input at least so large.
    cdef int _reserve(self, ta_batch *batch, int index, size_t nbytes) noexcept nogil:
        cdef Scratch *scratch = &self.scratch[index]
        cdef ort_status *status = NULL
        if scratch.data != NULL and scratch.nbytes < nbytes:
            status = ort_allocator_free(self.api, self.allocator, scratch.data)
            scratch.data = NULL
        if status == NULL and scratch.data == NULL:
            status = ort_allocator_alloc(self.api, self.allocator, nbytes, &scratch.data)
            scratch.nbytes = nbytes
        if status != NULL:
            ta_batch_fail(batch, TA_CODE_INTERNAL, "no GPU memory to gather the inputs of a batch: %.600s",
                          ort_get_error_message(self.api, status))
            ort_release_status(self.api, status)
            scratch.data = NULL
        elif scratch.data == NULL:
            ta_batch_fail(batch, TA_CODE_INTERNAL, "no GPU memory to gather the inputs of a batch")
        return 0 if scratch.data != NULL else -1

    cdef int _failed(self, ta_batch *batch, int result) noexcept nogil:
        cdef char[200] text
        ta_cuda_describe(self.cuda, result, text, sizeof(text))
        ta_batch_fail(batch, TA_CODE_INTERNAL, "the inputs of a batch could not be copied: %s", text)
        return -1
