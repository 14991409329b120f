# The CUDA driver's functions for threads without the GIL (csrc/cuda.h), one table for the process.

from libc.stdint cimport uint64_t

cdef extern from "cuda.h" nogil:
    ctypedef uint64_t ta_device_ptr
    ctypedef void *ta_cuda_stream
    ctypedef void *ta_cuda_event
    ctypedef void *ta_cuda_graph
    ctypedef void *ta_cuda_function
    ctypedef void (*ta_cuda_host_function)(void *argument) noexcept nogil
    enum: TA_CUDA_NOT_READY
    ctypedef struct ta_cuda:
        int (*memcpy_sync)(ta_device_ptr to, ta_device_ptr source, size_t nbytes) noexcept nogil
        int (*memcpy_async)(ta_device_ptr to, ta_device_ptr source, size_t nbytes,
                            ta_cuda_stream stream) noexcept nogil
        int (*memset_async)(ta_device_ptr to, unsigned char value, size_t nbytes,
                            ta_cuda_stream stream) noexcept nogil
        int (*stream_wait_event)(ta_cuda_stream stream, ta_cuda_event event, unsigned flags) noexcept nogil
        int (*stream_synchronize)(ta_cuda_stream stream) noexcept nogil
        int (*event_record)(ta_cuda_event event, ta_cuda_stream stream) noexcept nogil
        int (*event_synchronize)(ta_cuda_event event) noexcept nogil
        int (*event_query)(ta_cuda_event event) noexcept nogil
        int (*event_elapsed_ms)(float *ms, ta_cuda_event start, ta_cuda_event end) noexcept nogil
        int (*launch_host_function)(ta_cuda_stream stream, ta_cuda_host_function function,
                                    void *argument) noexcept nogil
        int (*graph_launch)(ta_cuda_graph graph, ta_cuda_stream stream) noexcept nogil
        int (*launch_kernel)(ta_cuda_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                             unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_nbytes,
                             ta_cuda_stream stream, void **arguments, void **extra) noexcept nogil
    void ta_cuda_describe(const ta_cuda *api, int result, char *text, size_t nbytes)

# The table; NULL until `load_driver` has succeeded. Any thread; never changes afterwards (but in tests).
cdef const ta_cuda *cuda_api() noexcept nogil

# Whether a result says that the context, and with it all that this process has on the GPU, can do nothing more.
cdef bint error_lasts(int result) noexcept nogil
# Name and text of a CUresult; below 0: that there was no GPU to ask. Any thread with the GIL.
cdef str describe(int result)
