"""Sessions: made from a model file and settings, asked for the model's inputs and outputs."""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from triton_async.backends.onnxruntime.api cimport (
    ORT_DEVICE_ALLOCATOR,
    ORT_ELEMENT_NONE,
    ORT_KIND_TENSOR,
    ORT_MEM_TYPE_DEFAULT,
    Environment,
    Library,
    find_operators,
    from_element_type,
    ort_add_external_files,
    ort_add_run_config_entry,
    ort_add_session_config_entry,
    ort_allocator_free,
    ort_append_cuda,
    ort_append_provider,
    ort_append_tensorrt,
    ort_create_cuda_options,
    ort_create_memory_info,
    ort_create_run_options,
    ort_create_session,
    ort_create_session_from_array,
    ort_create_session_options,
    ort_create_tensorrt_options,
    ort_cuda_options,
    ort_dimension_count,
    ort_dimensions,
    ort_disable_per_session_threads,
    ort_register_operators,
    ort_release_cuda_options,
    ort_release_memory_info,
    ort_release_run_options,
    ort_run_options,
    ort_release_session,
    ort_release_session_options,
    ort_release_tensorrt_options,
    ort_release_type_info,
    ort_session_count,
    ort_session_name,
    ort_session_options,
    ort_session_type,
    ort_set_execution_mode,
    ort_set_graph_optimization_level,
    ort_set_inter_op_threads,
    ort_set_intra_op_threads,
    ort_set_mem_arena,
    ort_set_mem_pattern,
    ort_status,
    ort_table,
    ort_tensor_element_type,
    ort_tensor_info,
    ort_tensorrt_options,
    ort_type_as_tensor,
    ort_type_info,
    ort_type_kind,
    ort_update_cuda_options,
    ort_update_tensorrt_options,
)
from triton_async.backends.onnxruntime.values cimport settle_values
from triton_async.infer.tensor cimport TA_MAX_RANK

import os
from dataclasses import replace
from stat import S_ISREG

from triton_async.backends.onnxruntime.providers import CUDA, TENSORRT, plain_error
from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.config.external_data import external_files
from triton_async.config.paths import safe_join
from triton_async.errors import InternalError, InvalidArg, Unavailable, Unsupported

# ONNXType, in its order.
cdef tuple _KINDS = ("UNKNOWN", "TENSOR", "SEQUENCE", "MAP", "OPAQUE", "SPARSETENSOR", "OPTIONAL")


# __dealloc__ uses the fields.
@cython.final
@cython.no_gc_clear
cdef class Session:
    """A session of the model file at `path`, made with SessionSettings. Blocking; load or instance thread. `model`:
    what the file is to be read as, in place of its bytes.

    Raises ServerError with the engine's reason and without the path.
    """

    def __init__(self, Environment environment, path, settings, bytes model=None):
        cdef ort_session_options *options = NULL
        cdef Library library = environment.library
        cdef ort_status *status
        cdef bytes c_path = bytes(path)
        cdef const char *c_string = c_path
        cdef const char *c_model = NULL
        if model is not None:
            c_model = model
        cdef size_t nbytes = 0 if model is None else len(model)
        _check_file(path)
        self.library = library
        self.environment = environment
        self.device = settings.device
        library.check(ort_create_session_options(library.api, &options))
        try:
            _apply(library, options, settings, _shares_threads(environment, settings))
            try:
                for provider in settings.providers:
                    _append(library, options, provider)
                files = _external_files(path, settings)
                _add_external_files(library, options, files)
                for operators in settings.operators:
                    _register(library, options, operators)
                with nogil:
                    if c_model == NULL:
                        status = ort_create_session(library.api, environment.env, c_string, options, &self.session)
                    else:
                        status = ort_create_session_from_array(library.api, environment.env, c_model, nbytes, options,
                                                               &self.session)
                library.check(status)
            except InternalError as error:
                message = error.message.replace(f"{path.parent}/", "")
                raise InternalError(plain_error(message) if settings.providers else message) from None
        finally:
            ort_release_session_options(library.api, options)
        self.run_entries = tuple(settings.run_entries)
        if self.device >= 0:
            library.check(ort_create_memory_info(library.api, b"Cuda", ORT_DEVICE_ALLOCATOR, self.device,
                                                 ORT_MEM_TYPE_DEFAULT, &self.device_info))
        self.inputs = self._describe(0)
        self.outputs = self._describe(1)
        self.initializers = self._describe(2)

    def __dealloc__(self):
        cdef ort_table api = self.library.api if self.library is not None else NULL
        # Frees weights and joins threads: not while the event loop waits for the GIL.
        with nogil:
            if self.device_info != NULL:
                ort_release_memory_info(api, self.device_info)
            if self.session != NULL:
                settle_values()
                ort_release_session(api, self.session)

    def model_io(self):
        """Inputs, those with a default marked optional, and outputs: a config ModelIO."""
        return ModelIO(self.inputs + self.initializers, self.outputs)

    def mark_unranked(self, names):
        """Inputs and outputs of these names have no declared rank, which a session describes as it does a scalar."""
        self.inputs = tuple([_unranked(tensor, names) for tensor in self.inputs])
        self.outputs = tuple([_unranked(tensor, names) for tensor in self.outputs])

    cdef ort_run_options *make_run_options(self) except NULL:
        cdef ort_table api = self.library.api
        cdef ort_run_options *options = NULL
        self.library.check(ort_create_run_options(api, &options))
        try:
            for key, value in self.run_entries:
                self.library.check(ort_add_run_config_entry(api, options, key.encode(), value.encode()))
        except BaseException:
            ort_release_run_options(api, options)
            raise
        return options

    cdef tuple _describe(self, int what):
        cdef ort_table api = self.library.api
        cdef ort_type_info *info = NULL
        cdef size_t count = 0
        cdef size_t i
        cdef char *name = NULL
        cdef list described = []
        self.library.check(ort_session_count(api, self.session, what, &count))
        for i in range(count):
            self.library.check(ort_session_name(api, self.session, what, i, self.library.allocator, &name))
            try:
                text = name.decode("utf-8", "replace")
            finally:
                self.library.check(ort_allocator_free(api, self.library.allocator, name))
            self.library.check(ort_session_type(api, self.session, what, i, &info))
            try:
                described.append(_tensor_info(self.library, info, text, what == 2))
            finally:
                ort_release_type_info(api, info)
        return tuple(described)


def _unranked(tensor, names):
    return replace(tensor, unranked=True) if not tensor.dims and tensor.name in names else tensor


def _check_file(path):
    try:
        found = path.stat()
    except OSError:
        raise Unavailable(f"unable to find '{path.name}'") from None
    if not S_ISREG(found.st_mode):
        raise InvalidArg(f"'{path.name}' is not a file")
    if found.st_size == 0:
        raise InvalidArg(f"'{path.name}' is empty")


# (name, contents) of the files that hold weights of the model at `path`. The library would map them, and serve, or end
# with, whatever becomes of them. Left out is what it is to refuse in its own words: bytes that are no model, files that
# are not there. Providers that make an engine of their own from the model's file read these files themselves.
def _external_files(path, settings):
    alone = set(os.listdir(path.parent)) <= {path.name}
    if alone or any([provider.name != CUDA for provider in settings.providers]):
        return []
    try:
        names = external_files(path.read_bytes())
        files = [(name, safe_join(path.parent, name, "external data")) for name in names]
        return [(name, file.read_bytes()) for name, file in files if file.is_file()]
    except InvalidArg:
        return []
    except OSError as error:
        raise InternalError(f"external data of '{path.name}' can not be read: {error.strerror}") from None


# `files`: (name, contents), to be kept until the session is made.
cdef int _add_external_files(Library library, ort_session_options *options, list files) except -1:
    cdef size_t count = len(files)
    cdef list names = [name.encode() for name, _ in files]
    cdef const char **c_names = <const char **>calloc(2 * count + 1, sizeof(char *))
    cdef size_t *nbytes = <size_t *>calloc(count + 1, sizeof(size_t))
    cdef const char **contents = c_names + count
    cdef size_t i
    try:
        if c_names == NULL or nbytes == NULL:
            raise MemoryError
        for i in range(count):
            c_names[i] = <bytes>names[i]
            contents[i] = <bytes>files[i][1]
            nbytes[i] = len(<bytes>files[i][1])
        if count:
            library.check(ort_add_external_files(library.api, options, c_names, <char **>contents, nbytes, count))
    finally:
        free(c_names)
        free(nbytes)
    return 0


cdef int _register(Library library, ort_session_options *options, str path) except -1:
    cdef ort_register_operators add = find_operators(path)
    cdef ort_status *status
    with nogil:
        status = add(options, library.base)
    library.check(status)
    return 0


cdef bint _shares_threads(Environment environment, settings) except -1:
    return environment.pools is not None and (environment.pools.for_all or not settings.own_threads)


cdef int _apply(Library library, ort_session_options *options, settings, bint share_threads) except -1:
    cdef ort_table api = library.api
    library.check(ort_set_graph_optimization_level(api, options, settings.graph_level))
    library.check(ort_set_execution_mode(api, options, settings.parallel))
    library.check(ort_set_mem_arena(api, options, settings.mem_arena))
    library.check(ort_set_mem_pattern(api, options, settings.mem_pattern))
    if share_threads:
        library.check(ort_disable_per_session_threads(api, options))
    else:
        library.check(ort_set_intra_op_threads(api, options, settings.intra_op_threads))
        library.check(ort_set_inter_op_threads(api, options, settings.inter_op_threads))
    for key, value in settings.entries:
        library.check(ort_add_session_config_entry(api, options, key.encode(), value.encode()))
    return 0


# Blocks: a GPU provider's library is loaded, and the GPU's driver started, by its first options.
cdef int _append(Library library, ort_session_options *options, provider) except -1:
    cdef list texts = [(key.encode(), value.encode()) for key, value in provider.options]
    # The longer name is one of newer versions.
    cdef bytes name = provider.name.removesuffix("ExecutionProvider").encode()
    cdef const char *c_name = name
    cdef size_t count = len(texts)
    cdef const char **keys = <const char **>calloc(2 * count + 1, sizeof(char *))
    cdef const char **values = keys + count
    cdef ort_status *status
    cdef size_t i
    if keys == NULL:
        raise MemoryError
    for i in range(count):
        keys[i] = <bytes>(<tuple>texts[i])[0]
        values[i] = <bytes>(<tuple>texts[i])[1]
    try:
        if provider.name == CUDA:
            _append_cuda(library, options, keys, values, count)
        elif provider.name == TENSORRT:
            _append_tensorrt(library, options, keys, values, count)
        else:
            with nogil:
                status = ort_append_provider(library.api, options, c_name, keys, values, count)
            library.check(status)
    finally:
        free(keys)
    return 0


cdef int _append_cuda(Library library, ort_session_options *options, const char **keys, const char **values,
                      size_t count) except -1:
    cdef ort_cuda_options *cuda = NULL
    cdef ort_status *status
    library.check(ort_create_cuda_options(library.api, &cuda))
    try:
        with nogil:
            status = ort_update_cuda_options(library.api, cuda, keys, values, count)
        library.check(status)
        library.check(ort_append_cuda(library.api, options, cuda))
    finally:
        ort_release_cuda_options(library.api, cuda)
    return 0


cdef int _append_tensorrt(Library library, ort_session_options *options, const char **keys, const char **values,
                          size_t count) except -1:
    cdef ort_tensorrt_options *tensorrt = NULL
    cdef ort_status *status
    library.check(ort_create_tensorrt_options(library.api, &tensorrt))
    try:
        with nogil:
            status = ort_update_tensorrt_options(library.api, tensorrt, keys, values, count)
        library.check(status)
        library.check(ort_append_tensorrt(library.api, options, tensorrt))
    finally:
        ort_release_tensorrt_options(library.api, tensorrt)
    return 0


cdef object _tensor_info(Library library, const ort_type_info *info, str name, bint optional):
    cdef const ort_tensor_info *tensor = NULL
    cdef int64_t[TA_MAX_RANK] dims
    cdef size_t rank = 0
    cdef size_t i
    cdef int kind = 0
    cdef int element_type = ORT_ELEMENT_NONE
    cdef int datatype
    library.check(ort_type_kind(library.api, info, &kind))
    if kind != ORT_KIND_TENSOR:
        found = _KINDS[kind] if 0 <= kind < len(_KINDS) else _KINDS[0]
        raise Unsupported(f"Unsupported ONNX Type 'ONNX_TYPE_{found}' for I/O '{name}', expected "
                          "'ONNX_TYPE_TENSOR'. Of sequences only what ZipMap makes of probabilities can be served, as "
                          "their tensor: give the model a tensor there, such as by ConcatFromSequence")
    library.check(ort_type_as_tensor(library.api, info, &tensor))
    library.check(ort_tensor_element_type(library.api, tensor, &element_type))
    datatype = from_element_type(element_type)
    if not datatype:
        raise Unsupported(f"unsupported datatype (ONNX element type {element_type}) for I/O '{name}'")
    library.check(ort_dimension_count(library.api, tensor, &rank))
    if rank > TA_MAX_RANK:
        raise Unsupported(f"I/O '{name}' has {rank} dimensions, at most {TA_MAX_RANK} are supported")
    library.check(ort_dimensions(library.api, tensor, dims, rank))
    return TensorInfo(name, datatype, tuple([dims[i] for i in range(rank)]), optional)
