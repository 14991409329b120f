"""Two driver calls for engines that are driven from Python: a copy on the device, and waiting for a stream."""

from triton_async.memory.cuda cimport cuda_api, ta_cuda, ta_cuda_describe, ta_cuda_stream, ta_device_ptr

from triton_async.errors import InternalError


def copy_async(ta_device_ptr to, ta_device_ptr source, size_t nbytes, size_t stream):
    """Copies between device addresses, in the order of `stream`. InternalError with CUDA's text."""
    _check(_api().memcpy_async(to, source, nbytes, <ta_cuda_stream>stream), "copy on the GPU")


def synchronize(size_t stream):
    """Waits, without the GIL, for all that is on `stream`. InternalError with CUDA's text."""
    cdef const ta_cuda *api = _api()
    cdef int result
    with nogil:
        result = api.stream_synchronize(<ta_cuda_stream>stream)
    _check(result, "wait for the GPU")


cdef const ta_cuda *_api() except NULL:
    cdef const ta_cuda *api = cuda_api()
    if api == NULL:
        raise InternalError("the CUDA driver is not loaded")
    return api


cdef int _check(int result, str doing) except -1:
    cdef char[256] text
    if result == 0:
        return 0
    ta_cuda_describe(cuda_api(), result, text, sizeof(text))
    raise InternalError(f"failed to {doing}: {text.decode('utf-8', 'replace')}")
