"""The CUDA driver's functions for the hot path, loaded when the first GPU is used. Any thread."""

import threading

cdef extern from "cuda.h" nogil:
    int ta_cuda_load(ta_cuda *api, const char *path, char *error, size_t error_nbytes)

cdef ta_cuda _api
cdef bint _loaded = False
_lock = threading.Lock()


cdef const ta_cuda *cuda_api() noexcept nogil:
    return &_api if _loaded else NULL


cdef str describe(int result):
    cdef char[256] text
    if result < 0 or not _loaded:
        return "no GPU can be used"
    ta_cuda_describe(&_api, result, text, sizeof(text))
    return text.decode("utf-8", "replace")


def load_driver(path=None):
    """Loads the driver, once; `path`: another library with its functions, which tests put in the place of whatever was
    there, while no thread uses it. OSError with the reason."""
    global _api, _loaded
    cdef char[256] error
    cdef ta_cuda found
    cdef bytes name
    cdef const char *c_name = NULL
    if path is not None:
        name = path.encode()
        c_name = name
    with _lock:
        if _loaded and path is None:
            return
        if ta_cuda_load(&found, c_name, error, sizeof(error)) < 0:
            raise OSError(error.decode("utf-8", "replace"))
        _api = found
        _loaded = True


def driver_loaded():
    return _loaded


cdef bint error_lasts(int result) noexcept nogil:
    return result in (
        4,    # DEINITIALIZED
        201,  # INVALID_CONTEXT
        214,  # ECC_UNCORRECTABLE
        220,  # NVLINK_UNCORRECTABLE
        700,  # ILLEGAL_ADDRESS
        702,  # LAUNCH_TIMEOUT
        709,  # CONTEXT_IS_DESTROYED
        710,  # ASSERT
        714,  # HARDWARE_STACK_ERROR
        715,  # ILLEGAL_INSTRUCTION
        716,  # MISALIGNED_ADDRESS
        717,  # INVALID_ADDRESS_SPACE
        718,  # INVALID_PC
        719,  # LAUNCH_FAILED
        721,  # CONTAINED
        999,  # UNKNOWN
    )
