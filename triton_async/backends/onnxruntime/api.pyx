"""ONNX Runtime's shared library: found, loaded and checked at first use; its environment; its errors."""

cimport cython
from libc.stddef cimport size_t

from triton_async.datatypes cimport (
    DT_BF16,
    DT_BOOL,
    DT_BYTES,
    DT_FP16,
    DT_FP32,
    DT_FP64,
    DT_INT8,
    DT_INT16,
    DT_INT32,
    DT_INT64,
    DT_INVALID,
    DT_UINT8,
    DT_UINT16,
    DT_UINT32,
    DT_UINT64,
)

import importlib.util
import re
from pathlib import Path

from triton_async.errors import InternalError, InvalidArg, Unavailable

cdef extern from "<dlfcn.h>" nogil:
    int RTLD_NOW
    int RTLD_LOCAL
    void *dlopen(const char *path, int flags)
    void *dlsym(void *library, const char *name)
    const char *dlerror()

ctypedef const ort_api_base *(*get_api_base_t)() noexcept nogil


cdef int to_element_type(int datatype) noexcept nogil:
    if datatype == DT_BOOL:
        return ORT_ELEMENT_BOOL
    if datatype == DT_UINT8:
        return ORT_ELEMENT_UINT8
    if datatype == DT_UINT16:
        return ORT_ELEMENT_UINT16
    if datatype == DT_UINT32:
        return ORT_ELEMENT_UINT32
    if datatype == DT_UINT64:
        return ORT_ELEMENT_UINT64
    if datatype == DT_INT8:
        return ORT_ELEMENT_INT8
    if datatype == DT_INT16:
        return ORT_ELEMENT_INT16
    if datatype == DT_INT32:
        return ORT_ELEMENT_INT32
    if datatype == DT_INT64:
        return ORT_ELEMENT_INT64
    if datatype == DT_FP16:
        return ORT_ELEMENT_FLOAT16
    if datatype == DT_FP32:
        return ORT_ELEMENT_FLOAT
    if datatype == DT_FP64:
        return ORT_ELEMENT_DOUBLE
    if datatype == DT_BYTES:
        return ORT_ELEMENT_STRING
    if datatype == DT_BF16:
        return ORT_ELEMENT_BFLOAT16
    return ORT_ELEMENT_NONE


cdef int from_element_type(int element_type) noexcept nogil:
    cdef int datatype
    for datatype in range(DT_INVALID + 1, DT_BF16 + 1):
        if to_element_type(datatype) == element_type:
            return datatype
    return DT_INVALID


cdef void clean_message(const char *text, char *out, size_t room) noexcept nogil:
    cdef size_t written = 0
    cdef size_t i = 0
    cdef size_t end
    cdef size_t name
    cdef char before = b" "
    while text[i] and written + 1 < room:
        if text[i] == b"/" and _opens(before):
            # A path: keep the file's name alone. Names of graph nodes look the same but for the dot.
            end = i
            name = i
            while text[end] and not _closes(text[end]):
                if text[end] == b"/":
                    name = end + 1
                end += 1
            if _has_dot(text, name, end):
                i = name
        before = text[i]
        out[written] = b" " if before == b"\n" or before == b"\r" else before
        written += 1
        i += 1
    while written and out[written - 1] == b" ":
        written -= 1
    out[written] = 0


cdef bint _opens(char c) noexcept nogil:
    return c == b" " or c == b"\n" or c == b"'" or c == b'"' or c == b"(" or c == b"[" or c == b":" or c == b"="


cdef bint _closes(char c) noexcept nogil:
    return c == b" " or c == b"\n" or c == b"'" or c == b'"' or c == b")" or c == b"]" or c == b":" or c == b","


cdef bint _has_dot(const char *text, size_t start, size_t end) noexcept nogil:
    cdef size_t i
    for i in range(start, end):
        if text[i] == b".":
            return True
    return False


def clean(str text):
    """An engine's message as clients may see it: one line, files without their directories."""
    cdef bytes source = text.encode()
    cdef bytearray out = bytearray(len(source) + 1)
    cdef char *to = out
    clean_message(source, to, len(out))
    return to.decode("utf-8", "replace")


def find_library():
    """Path of the shared library inside the installed `onnxruntime` package, which is not imported."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("the onnxruntime backend needs the Python package 'onnxruntime', which is not installed")
    for location in spec.submodule_search_locations:
        path = pick_library(Path(location, "capi"))
        if path is not None:
            return path
    raise Unavailable("the installed package 'onnxruntime' has no libonnxruntime.so")


def pick_library(capi):
    """The library in the folder `capi`, None when there is none: of several, that of the package installed last.

    The packages with and without GPUs share the folder; the providers beside the library are the last one's.
    """
    found = sorted(capi.glob("libonnxruntime.so*"))
    try:
        told = re.search(r"^__version__\s*=\s*['\"]([\w.+-]+)", (capi / "build_and_package_info.py").read_text(), re.M)
    except OSError:
        told = None
    own = capi / f"libonnxruntime.so.{told[1]}" if told else None
    if own in found:
        return own
    return found[0] if found else None


cdef ort_register_operators find_operators(str path) except NULL:
    cdef bytes c_path = path.encode()
    cdef const char *c_string = c_path
    cdef void *handle
    cdef ort_register_operators found = NULL
    name = Path(path).name
    with nogil:
        handle = dlopen(c_string, RTLD_NOW | RTLD_LOCAL)
    if handle == NULL:
        raise Unavailable(f"library of operators '{name}' can not be loaded: "
                          f"{clean(dlerror().decode('utf-8', 'replace'))}")
    found = <ort_register_operators>dlsym(handle, "RegisterCustomOps")
    if found == NULL:
        raise InvalidArg(f"'{name}' is no library of operators for ONNX Runtime: it does not export RegisterCustomOps")
    return found


@cython.final
cdef class Library:
    """ONNX Runtime's C API, loaded. Raises Unavailable when it is absent or too old. Any thread."""

    def __init__(self):
        path = bytes(find_library())
        cdef void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL)
        if handle == NULL:
            raise Unavailable(f"ONNX Runtime can not be loaded: {clean(dlerror().decode('utf-8', 'replace'))}")
        cdef get_api_base_t get_base = <get_api_base_t>dlsym(handle, "OrtGetApiBase")
        if get_base == NULL:
            raise Unavailable("ONNX Runtime can not be loaded: its library does not export OrtGetApiBase")
        cdef const ort_api_base *base = get_base()
        self.base = base
        self.version = base.get_version_string().decode()
        self.api = base.get_api(ORT_API_VERSION)
        if self.api == NULL:
            raise Unavailable(f"ONNX Runtime {self.version} is too old: its C API has no version {ORT_API_VERSION}")
        self.check(ort_create_cpu_memory_info(self.api, ORT_DEVICE_ALLOCATOR, ORT_MEM_TYPE_DEFAULT,
                                              &self.memory_info))
        self.check(ort_default_allocator(self.api, &self.allocator))
        self.providers = _available_providers(self)

    def __dealloc__(self):
        if self.memory_info != NULL:
            ort_release_memory_info(self.api, self.memory_info)

    cdef int check(self, ort_status *status) except -1:
        if status == NULL:
            return 0
        code = ort_get_error_code(self.api, status)
        text = ort_get_error_message(self.api, status).decode("utf-8", "replace")
        ort_release_status(self.api, status)
        raise InternalError(f"onnx runtime error {code}: {clean(text)}")


cdef tuple _available_providers(Library library):
    cdef char **names = NULL
    cdef int count = 0
    cdef int i
    library.check(ort_available_providers(library.api, &names, &count))
    try:
        return tuple([names[i].decode() for i in range(count)])
    finally:
        library.check(ort_release_available_providers(library.api, names, count))


cdef settle_t _settle = NULL


cdef void set_settle(settle_t settle) noexcept:
    global _settle
    _settle = settle


# __dealloc__ uses the fields.
@cython.final
@cython.no_gc_clear
cdef class Environment:
    """The library's environment, with the thread pools that its sessions share: options.ThreadPools, None for none.
    Any thread.
    """

    def __init__(self, Library library, pools=None):
        cdef ort_threading_options *threads = NULL
        cdef ort_table api = library.api
        self.library = library
        self.pools = pools
        # Every error comes back as a status as well, so the library itself prints none.
        if pools is None:
            library.check(ort_create_env(api, ORT_LOG_FATAL, b"triton-async", &self.env))
            return
        library.check(ort_create_threading_options(api, &threads))
        try:
            library.check(ort_set_global_intra_op_threads(api, threads, pools.intra_op_threads))
            library.check(ort_set_global_inter_op_threads(api, threads, pools.inter_op_threads))
            library.check(ort_set_global_spin_control(api, threads, 0))
            library.check(ort_create_env_with_global_threads(api, ORT_LOG_FATAL, b"triton-async", threads,
                                                             &self.env))
        finally:
            ort_release_threading_options(api, threads)

    def __dealloc__(self):
        cdef ort_table api = self.library.api if self.library is not None else NULL
        with nogil:
            if self.env != NULL:
                if _settle != NULL:
                    _settle()
                ort_release_env(api, self.env)
