# ONNX Runtime's C API (csrc/ort_api.h): its functions, the loaded library and its environment.

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t

cdef extern from "ort_api.h" nogil:
    ctypedef struct ort_status
    ctypedef struct ort_env
    ctypedef struct ort_session
    ctypedef struct ort_session_options
    ctypedef struct ort_run_options
    ctypedef struct ort_threading_options
    ctypedef struct ort_value
    ctypedef struct ort_allocator
    ctypedef struct ort_memory_info
    ctypedef struct ort_type_info
    ctypedef struct ort_tensor_info
    ctypedef struct ort_cuda_options
    ctypedef struct ort_tensorrt_options
    ctypedef const void *ort_table
    ctypedef struct ort_api_base:
        ort_table (*get_api)(uint32_t version) noexcept nogil
        const char *(*get_version_string)() noexcept nogil
    ctypedef ort_status *(*ort_register_operators)(ort_session_options *options,
                                                   const ort_api_base *base) noexcept nogil

    enum: ORT_API_VERSION
    enum ort_element_type:
        ORT_ELEMENT_NONE
        ORT_ELEMENT_FLOAT
        ORT_ELEMENT_UINT8
        ORT_ELEMENT_INT8
        ORT_ELEMENT_UINT16
        ORT_ELEMENT_INT16
        ORT_ELEMENT_INT32
        ORT_ELEMENT_INT64
        ORT_ELEMENT_STRING
        ORT_ELEMENT_BOOL
        ORT_ELEMENT_FLOAT16
        ORT_ELEMENT_DOUBLE
        ORT_ELEMENT_UINT32
        ORT_ELEMENT_UINT64
        ORT_ELEMENT_BFLOAT16
    enum ort_constant:
        ORT_KIND_TENSOR
        ORT_LOG_FATAL
        ORT_DEVICE_ALLOCATOR
        ORT_MEM_TYPE_DEFAULT

    int ort_get_error_code(ort_table api, const ort_status *status)
    const char *ort_get_error_message(ort_table api, const ort_status *status)

    void ort_release_env(ort_table api, ort_env *env)
    void ort_release_status(ort_table api, ort_status *status)
    void ort_release_memory_info(ort_table api, ort_memory_info *info)
    void ort_release_session(ort_table api, ort_session *session)
    void ort_release_value(ort_table api, ort_value *value)
    void ort_release_run_options(ort_table api, ort_run_options *options)
    void ort_release_type_info(ort_table api, ort_type_info *info)
    void ort_release_tensor_info(ort_table api, ort_tensor_info *info)
    void ort_release_session_options(ort_table api, ort_session_options *options)
    void ort_release_threading_options(ort_table api, ort_threading_options *threads)
    void ort_release_allocator(ort_table api, ort_allocator *allocator)
    void ort_release_cuda_options(ort_table api, ort_cuda_options *cuda)
    void ort_release_tensorrt_options(ort_table api, ort_tensorrt_options *tensorrt)

    ort_status *ort_create_env(ort_table api, int severity, const char *id, ort_env **out)
    ort_status *ort_create_env_with_global_threads(ort_table api, int severity, const char *id,
                                                   const ort_threading_options *threads, ort_env **out)
    ort_status *ort_create_threading_options(ort_table api, ort_threading_options **out)
    ort_status *ort_set_global_intra_op_threads(ort_table api, ort_threading_options *threads, int count)
    ort_status *ort_set_global_inter_op_threads(ort_table api, ort_threading_options *threads, int count)
    ort_status *ort_set_global_spin_control(ort_table api, ort_threading_options *threads, int spin)

    ort_status *ort_create_session_options(ort_table api, ort_session_options **out)
    ort_status *ort_set_execution_mode(ort_table api, ort_session_options *options, int parallel)
    ort_status *ort_set_mem_pattern(ort_table api, ort_session_options *options, int enabled)
    ort_status *ort_set_mem_arena(ort_table api, ort_session_options *options, int enabled)
    ort_status *ort_set_graph_optimization_level(ort_table api, ort_session_options *options, int level)
    ort_status *ort_set_intra_op_threads(ort_table api, ort_session_options *options, int count)
    ort_status *ort_set_inter_op_threads(ort_table api, ort_session_options *options, int count)
    ort_status *ort_disable_per_session_threads(ort_table api, ort_session_options *options)
    ort_status *ort_add_session_config_entry(ort_table api, ort_session_options *options, const char *key,
                                             const char *value)
    ort_status *ort_add_external_files(ort_table api, ort_session_options *options, const char **names,
                                       char **contents, const size_t *nbytes, size_t count)

    ort_status *ort_available_providers(ort_table api, char ***names, int *count)
    ort_status *ort_release_available_providers(ort_table api, char **names, int count)
    ort_status *ort_create_cuda_options(ort_table api, ort_cuda_options **out)
    ort_status *ort_update_cuda_options(ort_table api, ort_cuda_options *cuda, const char **keys,
                                        const char **values, size_t count)
    ort_status *ort_append_cuda(ort_table api, ort_session_options *options, const ort_cuda_options *cuda)
    ort_status *ort_create_tensorrt_options(ort_table api, ort_tensorrt_options **out)
    ort_status *ort_update_tensorrt_options(ort_table api, ort_tensorrt_options *tensorrt, const char **keys,
                                            const char **values, size_t count)
    ort_status *ort_append_tensorrt(ort_table api, ort_session_options *options,
                                    const ort_tensorrt_options *tensorrt)
    ort_status *ort_append_provider(ort_table api, ort_session_options *options, const char *name,
                                    const char **keys, const char **values, size_t count)
    ort_status *ort_set_current_gpu(ort_table api, int device)

    ort_status *ort_create_session_from_array(ort_table api, const ort_env *env, const void *model, size_t nbytes,
                                              const ort_session_options *options, ort_session **out)
    ort_status *ort_create_session(ort_table api, const ort_env *env, const char *path,
                                   const ort_session_options *options, ort_session **out)
    ort_status *ort_session_count(ort_table api, const ort_session *session, int what, size_t *out)
    ort_status *ort_session_type(ort_table api, const ort_session *session, int what, size_t i,
                                 ort_type_info **out)
    ort_status *ort_session_name(ort_table api, const ort_session *session, int what, size_t i,
                                 ort_allocator *allocator, char **out)
    ort_status *ort_type_kind(ort_table api, const ort_type_info *type, int *out)
    ort_status *ort_type_as_tensor(ort_table api, const ort_type_info *type, const ort_tensor_info **out)

    ort_status *ort_create_run_options(ort_table api, ort_run_options **out)
    ort_status *ort_run_set_terminate(ort_table api, ort_run_options *options)
    ort_status *ort_run_unset_terminate(ort_table api, ort_run_options *options)
    ort_status *ort_add_run_config_entry(ort_table api, ort_run_options *options, const char *key,
                                         const char *value)
    ort_status *ort_run(ort_table api, ort_session *session, const ort_run_options *options,
                        const char **input_names, const ort_value **inputs, size_t n_inputs,
                        const char **output_names, size_t n_outputs, ort_value **outputs)

    ort_status *ort_create_cpu_memory_info(ort_table api, int allocator_type, int mem_type,
                                           ort_memory_info **out)
    ort_status *ort_create_memory_info(ort_table api, const char *name, int allocator_type, int device,
                                       int mem_type, ort_memory_info **out)
    ort_status *ort_create_allocator(ort_table api, const ort_session *session, const ort_memory_info *info,
                                     ort_allocator **out)
    ort_status *ort_allocator_alloc(ort_table api, ort_allocator *allocator, size_t nbytes, void **out)
    ort_status *ort_default_allocator(ort_table api, ort_allocator **out)
    ort_status *ort_allocator_free(ort_table api, ort_allocator *allocator, void *memory)
    ort_status *ort_create_tensor(ort_table api, ort_allocator *allocator, const int64_t *dims, size_t rank,
                                  int element_type, ort_value **out)
    ort_status *ort_create_tensor_with_data(ort_table api, const ort_memory_info *info, void *data, size_t nbytes,
                                            const int64_t *dims, size_t rank, int element_type, ort_value **out)
    ort_status *ort_tensor_data(ort_table api, ort_value *value, void **out)
    ort_status *ort_tensor_type_and_shape(ort_table api, const ort_value *value, ort_tensor_info **out)
    ort_status *ort_tensor_element_type(ort_table api, const ort_tensor_info *info, int *out)
    ort_status *ort_dimension_count(ort_table api, const ort_tensor_info *info, size_t *out)
    ort_status *ort_dimensions(ort_table api, const ort_tensor_info *info, int64_t *dims, size_t rank)
    ort_status *ort_string_data_length(ort_table api, const ort_value *value, size_t *out)
    ort_status *ort_string_content(ort_table api, const ort_value *value, void *content, size_t nbytes,
                                   size_t *offsets, size_t count)
    ort_status *ort_resized_string_buffer(ort_table api, ort_value *value, size_t i, size_t nbytes, char **out)

# Number of ORT's for one of ours and back; 0 when there is none. Any thread, no GIL.
cdef int to_element_type(int datatype) noexcept nogil
cdef int from_element_type(int element_type) noexcept nogil

# Copies an engine's message to `out` (at most room - 1 bytes and a NUL) on one line and with the directories
# of files taken off. No GIL.
cdef void clean_message(const char *text, char *out, size_t room) noexcept nogil


# The loaded library. Never unloaded: values may be released until the process ends. Immutable, any thread.
@cython.final
cdef class Library:
    cdef ort_table api
    cdef ort_memory_info *memory_info     # plain host memory
    cdef ort_allocator *allocator         # the library's own, for names and strings
    cdef readonly str version
    cdef const ort_api_base *base         # what libraries of operators are given
    cdef readonly tuple providers         # names of the execution providers that it was built with

    # Raises what a status says, InternalError in Triton's words, and releases it. Nothing for NULL.
    cdef int check(self, ort_status *status) except -1


# The entry of a library of operators, which is loaded for good. Unavailable, InvalidArg. Blocking.
cdef ort_register_operators find_operators(str path) except NULL


ctypedef void (*settle_t)() noexcept nogil

# What waits until all values that were let go of are released, before the environment is. Once.
cdef void set_settle(settle_t settle) noexcept


# The library's environment: its logger and, if asked for, thread pools that sessions share. Outlives its sessions.
# There is one at a time in a process: a second one made while the first lives is the first.
@cython.final
cdef class Environment:
    cdef readonly Library library
    cdef readonly object pools            # options.ThreadPools, None: each session has its own
    cdef ort_env *env
