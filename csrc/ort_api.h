/* The entries of ONNX Runtime's C API that we call, so that no header of it is needed to build.
 *
 * Its function table is part of its ABI: entries keep their place, new ones are appended. `ort_table` is that
 * table, an index says the place, a wrapper gives the entry its type. Every wrapper is called by
 * tests/unit/backends/test_onnxruntime_api.py. No entry needs the GIL; a status that is not NULL is an error and
 * must be released. Values, sessions and options are released with their own entry.
 */
#ifndef TRITON_ASYNC_ORT_API_H
#define TRITON_ASYNC_ORT_API_H

#include <stddef.h>
#include <stdint.h>

/* The table of 1.20 has all the entries below; a newer library hands out the same places for it. */
#define ORT_API_VERSION 20

typedef struct ort_status ort_status;
typedef struct ort_env ort_env;
typedef struct ort_session ort_session;
typedef struct ort_session_options ort_session_options;
typedef struct ort_run_options ort_run_options;
typedef struct ort_threading_options ort_threading_options;
typedef struct ort_value ort_value;
typedef struct ort_allocator ort_allocator;
typedef struct ort_memory_info ort_memory_info;
typedef struct ort_type_info ort_type_info;
typedef struct ort_tensor_info ort_tensor_info;
typedef struct ort_cuda_options ort_cuda_options;
typedef struct ort_tensorrt_options ort_tensorrt_options;

typedef void (*ort_entry)(void);
typedef const ort_entry *ort_table;

/* What the library's one exported function, OrtGetApiBase, returns. */
typedef struct ort_api_base {
    ort_table (*get_api)(uint32_t version);
    const char *(*get_version_string)(void);
} ort_api_base;

/* What a library of operators exports as `RegisterCustomOps`: adds them to the options. It stays loaded. */
typedef ort_status *(*ort_register_operators)(ort_session_options *options, const ort_api_base *base);

enum ort_index {
    ORT_GET_ERROR_CODE = 1,
    ORT_GET_ERROR_MESSAGE = 2,
    ORT_CREATE_ENV = 3,
    ORT_CREATE_SESSION = 7,
    ORT_CREATE_SESSION_FROM_ARRAY = 8,
    ORT_RUN = 9,
    ORT_CREATE_SESSION_OPTIONS = 10,
    ORT_SET_EXECUTION_MODE = 13,
    ORT_ENABLE_MEM_PATTERN = 16,
    ORT_DISABLE_MEM_PATTERN = 17,
    ORT_ENABLE_CPU_MEM_ARENA = 18,
    ORT_DISABLE_CPU_MEM_ARENA = 19,
    ORT_SET_GRAPH_OPTIMIZATION_LEVEL = 23,
    ORT_SET_INTRA_OP_THREADS = 24,
    ORT_SET_INTER_OP_THREADS = 25,
    ORT_SESSION_COUNT = 30, /* of inputs; then of outputs, of initializers; the same for types and names */
    ORT_SESSION_TYPE = 33,
    ORT_SESSION_NAME = 36,
    ORT_CREATE_RUN_OPTIONS = 39,
    ORT_RUN_SET_TERMINATE = 46,
    ORT_RUN_UNSET_TERMINATE = 47,
    ORT_CREATE_TENSOR = 48,
    ORT_CREATE_TENSOR_WITH_DATA = 49,
    ORT_TENSOR_DATA = 51,
    ORT_STRING_DATA_LENGTH = 53,
    ORT_STRING_CONTENT = 54,
    ORT_TYPE_AS_TENSOR = 55,
    ORT_TYPE_KIND = 56,
    ORT_ELEMENT_TYPE = 60,
    ORT_DIMENSION_COUNT = 61,
    ORT_DIMENSIONS = 62,
    ORT_TENSOR_TYPE_AND_SHAPE = 65,
    ORT_CREATE_MEMORY_INFO = 68,
    ORT_CREATE_CPU_MEMORY_INFO = 69,
    ORT_ALLOCATOR_ALLOC = 75,
    ORT_ALLOCATOR_FREE = 76,
    ORT_DEFAULT_ALLOCATOR = 78,
    ORT_RELEASE_ENV = 92,
    ORT_RELEASE_STATUS = 93,
    ORT_RELEASE_MEMORY_INFO = 94,
    ORT_RELEASE_SESSION = 95,
    ORT_RELEASE_VALUE = 96,
    ORT_RELEASE_RUN_OPTIONS = 97,
    ORT_RELEASE_TYPE_INFO = 98,
    ORT_RELEASE_TENSOR_INFO = 99,
    ORT_RELEASE_SESSION_OPTIONS = 100,
    ORT_CREATE_ENV_WITH_GLOBAL_THREADS = 119,
    ORT_DISABLE_PER_SESSION_THREADS = 120,
    ORT_CREATE_THREADING_OPTIONS = 121,
    ORT_RELEASE_THREADING_OPTIONS = 122,
    ORT_AVAILABLE_PROVIDERS = 125,
    ORT_RELEASE_AVAILABLE_PROVIDERS = 126,
    ORT_ADD_SESSION_CONFIG_ENTRY = 130,
    ORT_CREATE_ALLOCATOR = 131,
    ORT_RELEASE_ALLOCATOR = 132,
    ORT_SET_GLOBAL_INTRA_OP_THREADS = 147,
    ORT_SET_GLOBAL_INTER_OP_THREADS = 148,
    ORT_SET_GLOBAL_SPIN_CONTROL = 149,
    ORT_SET_CURRENT_GPU = 160,
    ORT_ADD_RUN_CONFIG_ENTRY = 165,
    ORT_APPEND_TENSORRT = 170, /* and the entries of its options */
    ORT_CREATE_TENSORRT_OPTIONS = 171,
    ORT_UPDATE_TENSORRT_OPTIONS = 172,
    ORT_RELEASE_TENSORRT_OPTIONS = 174,
    ORT_APPEND_CUDA = 204,
    ORT_CREATE_CUDA_OPTIONS = 205,
    ORT_UPDATE_CUDA_OPTIONS = 206,
    ORT_RELEASE_CUDA_OPTIONS = 208,
    ORT_APPEND_PROVIDER = 216,
    ORT_RESIZED_STRING_BUFFER = 252,
    ORT_ADD_EXTERNAL_FILES = 279,
};

/* ONNXTensorElementDataType, as far as a tensor of ours can be one. */
enum ort_element_type {
    ORT_ELEMENT_NONE = 0,
    ORT_ELEMENT_FLOAT = 1,
    ORT_ELEMENT_UINT8 = 2,
    ORT_ELEMENT_INT8 = 3,
    ORT_ELEMENT_UINT16 = 4,
    ORT_ELEMENT_INT16 = 5,
    ORT_ELEMENT_INT32 = 6,
    ORT_ELEMENT_INT64 = 7,
    ORT_ELEMENT_STRING = 8,
    ORT_ELEMENT_BOOL = 9,
    ORT_ELEMENT_FLOAT16 = 10,
    ORT_ELEMENT_DOUBLE = 11,
    ORT_ELEMENT_UINT32 = 12,
    ORT_ELEMENT_UINT64 = 13,
    ORT_ELEMENT_BFLOAT16 = 16,
};

enum ort_constant {
    ORT_KIND_TENSOR = 1,      /* ONNXType */
    ORT_LOG_FATAL = 4,        /* OrtLoggingLevel */
    ORT_DEVICE_ALLOCATOR = 0, /* OrtAllocatorType: plain memory, no arena */
    ORT_MEM_TYPE_DEFAULT = 0, /* OrtMemType */
};

/* Wrapper of an entry that returns a status, or nothing. */
#define ORT_WRAP(name, index, parameters, types, arguments)              \
    static inline ort_status *name parameters {                          \
        return ((ort_status * (*)types) api[index]) arguments;           \
    }
#define ORT_WRAP_RELEASE(name, index, type)                              \
    static inline void name(ort_table api, type *object) {               \
        ((void (*)(type *))api[index])(object);                          \
    }

static inline int ort_get_error_code(ort_table api, const ort_status *status) {
    return ((int (*)(const ort_status *))api[ORT_GET_ERROR_CODE])(status);
}
static inline const char *ort_get_error_message(ort_table api, const ort_status *status) {
    return ((const char *(*)(const ort_status *))api[ORT_GET_ERROR_MESSAGE])(status);
}

ORT_WRAP_RELEASE(ort_release_env, ORT_RELEASE_ENV, ort_env)
ORT_WRAP_RELEASE(ort_release_status, ORT_RELEASE_STATUS, ort_status)
ORT_WRAP_RELEASE(ort_release_memory_info, ORT_RELEASE_MEMORY_INFO, ort_memory_info)
ORT_WRAP_RELEASE(ort_release_session, ORT_RELEASE_SESSION, ort_session)
ORT_WRAP_RELEASE(ort_release_value, ORT_RELEASE_VALUE, ort_value)
ORT_WRAP_RELEASE(ort_release_run_options, ORT_RELEASE_RUN_OPTIONS, ort_run_options)
ORT_WRAP_RELEASE(ort_release_type_info, ORT_RELEASE_TYPE_INFO, ort_type_info)
ORT_WRAP_RELEASE(ort_release_tensor_info, ORT_RELEASE_TENSOR_INFO, ort_tensor_info)
ORT_WRAP_RELEASE(ort_release_session_options, ORT_RELEASE_SESSION_OPTIONS, ort_session_options)
ORT_WRAP_RELEASE(ort_release_threading_options, ORT_RELEASE_THREADING_OPTIONS, ort_threading_options)
ORT_WRAP_RELEASE(ort_release_allocator, ORT_RELEASE_ALLOCATOR, ort_allocator)
ORT_WRAP_RELEASE(ort_release_cuda_options, ORT_RELEASE_CUDA_OPTIONS, ort_cuda_options)
ORT_WRAP_RELEASE(ort_release_tensorrt_options, ORT_RELEASE_TENSORRT_OPTIONS, ort_tensorrt_options)

/* -- environment: one per process; global thread pools when made with threading options -------------------- */
ORT_WRAP(ort_create_env, ORT_CREATE_ENV, (ort_table api, int severity, const char *id, ort_env **out),
         (int, const char *, ort_env **), (severity, id, out))
ORT_WRAP(ort_create_env_with_global_threads, ORT_CREATE_ENV_WITH_GLOBAL_THREADS,
         (ort_table api, int severity, const char *id, const ort_threading_options *threads, ort_env **out),
         (int, const char *, const ort_threading_options *, ort_env **), (severity, id, threads, out))
ORT_WRAP(ort_create_threading_options, ORT_CREATE_THREADING_OPTIONS, (ort_table api, ort_threading_options **out),
         (ort_threading_options **), (out))
ORT_WRAP(ort_set_global_intra_op_threads, ORT_SET_GLOBAL_INTRA_OP_THREADS,
         (ort_table api, ort_threading_options *threads, int count), (ort_threading_options *, int),
         (threads, count))
ORT_WRAP(ort_set_global_inter_op_threads, ORT_SET_GLOBAL_INTER_OP_THREADS,
         (ort_table api, ort_threading_options *threads, int count), (ort_threading_options *, int),
         (threads, count))
ORT_WRAP(ort_set_global_spin_control, ORT_SET_GLOBAL_SPIN_CONTROL,
         (ort_table api, ort_threading_options *threads, int spin), (ort_threading_options *, int),
         (threads, spin))

/* -- session options ---------------------------------------------------------------------------------------- */
ORT_WRAP(ort_create_session_options, ORT_CREATE_SESSION_OPTIONS, (ort_table api, ort_session_options **out),
         (ort_session_options **), (out))
ORT_WRAP(ort_set_execution_mode, ORT_SET_EXECUTION_MODE,
         (ort_table api, ort_session_options *options, int parallel), (ort_session_options *, int),
         (options, parallel))
ORT_WRAP(ort_set_mem_pattern, enabled ? ORT_ENABLE_MEM_PATTERN : ORT_DISABLE_MEM_PATTERN,
         (ort_table api, ort_session_options *options, int enabled), (ort_session_options *), (options))
ORT_WRAP(ort_set_mem_arena, enabled ? ORT_ENABLE_CPU_MEM_ARENA : ORT_DISABLE_CPU_MEM_ARENA,
         (ort_table api, ort_session_options *options, int enabled), (ort_session_options *), (options))
ORT_WRAP(ort_set_graph_optimization_level, ORT_SET_GRAPH_OPTIMIZATION_LEVEL,
         (ort_table api, ort_session_options *options, int level), (ort_session_options *, int), (options, level))
ORT_WRAP(ort_set_intra_op_threads, ORT_SET_INTRA_OP_THREADS,
         (ort_table api, ort_session_options *options, int count), (ort_session_options *, int), (options, count))
ORT_WRAP(ort_set_inter_op_threads, ORT_SET_INTER_OP_THREADS,
         (ort_table api, ort_session_options *options, int count), (ort_session_options *, int), (options, count))
ORT_WRAP(ort_disable_per_session_threads, ORT_DISABLE_PER_SESSION_THREADS,
         (ort_table api, ort_session_options *options), (ort_session_options *), (options))
ORT_WRAP(ort_add_session_config_entry, ORT_ADD_SESSION_CONFIG_ENTRY,
         (ort_table api, ort_session_options *options, const char *key, const char *value),
         (ort_session_options *, const char *, const char *), (options, key, value))
/* Contents of files of external data, by the names that the model has for them; read by ort_create_session alone. */
ORT_WRAP(ort_add_external_files, ORT_ADD_EXTERNAL_FILES,
         (ort_table api, ort_session_options *options, const char **names, char **contents, const size_t *nbytes,
          size_t count),
         (ort_session_options *, const char **, char **, const size_t *, size_t),
         (options, names, contents, nbytes, count))

/* -- execution providers, asked in the order in which they are appended; the CPU's is always the last --------- */
/* Names of those that the library was built with: whether they work, appending them tells. */
ORT_WRAP(ort_available_providers, ORT_AVAILABLE_PROVIDERS, (ort_table api, char ***names, int *count),
         (char ***, int *), (names, count))
ORT_WRAP(ort_release_available_providers, ORT_RELEASE_AVAILABLE_PROVIDERS,
         (ort_table api, char **names, int count), (char **, int), (names, count))
/* Options of a provider: made with defaults, changed by text, copied when the provider is appended. */
ORT_WRAP(ort_create_cuda_options, ORT_CREATE_CUDA_OPTIONS, (ort_table api, ort_cuda_options **out),
         (ort_cuda_options **), (out))
ORT_WRAP(ort_update_cuda_options, ORT_UPDATE_CUDA_OPTIONS,
         (ort_table api, ort_cuda_options *cuda, const char *const *keys, const char *const *values, size_t count),
         (ort_cuda_options *, const char *const *, const char *const *, size_t), (cuda, keys, values, count))
ORT_WRAP(ort_append_cuda, ORT_APPEND_CUDA,
         (ort_table api, ort_session_options *options, const ort_cuda_options *cuda),
         (ort_session_options *, const ort_cuda_options *), (options, cuda))
ORT_WRAP(ort_create_tensorrt_options, ORT_CREATE_TENSORRT_OPTIONS, (ort_table api, ort_tensorrt_options **out),
         (ort_tensorrt_options **), (out))
ORT_WRAP(ort_update_tensorrt_options, ORT_UPDATE_TENSORRT_OPTIONS,
         (ort_table api, ort_tensorrt_options *tensorrt, const char *const *keys, const char *const *values,
          size_t count),
         (ort_tensorrt_options *, const char *const *, const char *const *, size_t), (tensorrt, keys, values, count))
ORT_WRAP(ort_append_tensorrt, ORT_APPEND_TENSORRT,
         (ort_table api, ort_session_options *options, const ort_tensorrt_options *tensorrt),
         (ort_session_options *, const ort_tensorrt_options *), (options, tensorrt))
/* Any provider without entries of its own. */
ORT_WRAP(ort_append_provider, ORT_APPEND_PROVIDER,
         (ort_table api, ort_session_options *options, const char *name, const char *const *keys,
          const char *const *values, size_t count),
         (ort_session_options *, const char *, const char *const *, const char *const *, size_t),
         (options, name, keys, values, count))
/* Makes a GPU, and its primary context, current for the calling thread. */
ORT_WRAP(ort_set_current_gpu, ORT_SET_CURRENT_GPU, (ort_table api, int device), (int), (device))

/* -- session: any number of threads may run it -------------------------------------------------------------- */
ORT_WRAP(ort_create_session, ORT_CREATE_SESSION,
         (ort_table api, const ort_env *env, const char *path, const ort_session_options *options,
          ort_session **out),
         (const ort_env *, const char *, const ort_session_options *, ort_session **), (env, path, options, out))

/* Of a model in memory, which may go when it returns. */
ORT_WRAP(ort_create_session_from_array, ORT_CREATE_SESSION_FROM_ARRAY,
         (ort_table api, const ort_env *env, const void *model, size_t nbytes, const ort_session_options *options,
          ort_session **out),
         (const ort_env *, const void *, size_t, const ort_session_options *, ort_session **),
         (env, model, nbytes, options, out))

/* `what`: 0 inputs, 1 outputs, 2 initializers that a request may override; their entries stand in this order. */
ORT_WRAP(ort_session_count, ORT_SESSION_COUNT + what,
         (ort_table api, const ort_session *session, int what, size_t *out), (const ort_session *, size_t *),
         (session, out))
ORT_WRAP(ort_session_type, ORT_SESSION_TYPE + what,
         (ort_table api, const ort_session *session, int what, size_t i, ort_type_info **out),
         (const ort_session *, size_t, ort_type_info **), (session, i, out))
ORT_WRAP(ort_session_name, ORT_SESSION_NAME + what,
         (ort_table api, const ort_session *session, int what, size_t i, ort_allocator *allocator, char **out),
         (const ort_session *, size_t, ort_allocator *, char **), (session, i, allocator, out))
ORT_WRAP(ort_type_kind, ORT_TYPE_KIND, (ort_table api, const ort_type_info *type, int *out),
         (const ort_type_info *, int *), (type, out))
/* The tensor info is part of `type`, not to be released; NULL when the type is no tensor. */
ORT_WRAP(ort_type_as_tensor, ORT_TYPE_AS_TENSOR,
         (ort_table api, const ort_type_info *type, const ort_tensor_info **out),
         (const ort_type_info *, const ort_tensor_info **), (type, out))

/* -- run: outputs that are NULL on entry are made by the session --------------------------------------------- */
ORT_WRAP(ort_create_run_options, ORT_CREATE_RUN_OPTIONS, (ort_table api, ort_run_options **out),
         (ort_run_options **), (out))
/* Runs with these options end with an error, soon; until unset, those that begin do so too. Any thread. */
ORT_WRAP(ort_run_set_terminate, ORT_RUN_SET_TERMINATE, (ort_table api, ort_run_options *options),
         (ort_run_options *), (options))
ORT_WRAP(ort_run_unset_terminate, ORT_RUN_UNSET_TERMINATE, (ort_table api, ort_run_options *options),
         (ort_run_options *), (options))
ORT_WRAP(ort_add_run_config_entry, ORT_ADD_RUN_CONFIG_ENTRY,
         (ort_table api, ort_run_options *options, const char *key, const char *value),
         (ort_run_options *, const char *, const char *), (options, key, value))
ORT_WRAP(ort_run, ORT_RUN,
         (ort_table api, ort_session *session, const ort_run_options *options, const char *const *input_names,
          const ort_value *const *inputs, size_t n_inputs, const char *const *output_names, size_t n_outputs,
          ort_value **outputs),
         (ort_session *, const ort_run_options *, const char *const *, const ort_value *const *, size_t,
          const char *const *, size_t, ort_value **),
         (session, options, input_names, inputs, n_inputs, output_names, n_outputs, outputs))

/* -- values ------------------------------------------------------------------------------------------------- */
ORT_WRAP(ort_create_cpu_memory_info, ORT_CREATE_CPU_MEMORY_INFO,
         (ort_table api, int allocator_type, int mem_type, ort_memory_info **out), (int, int, ort_memory_info **),
         (allocator_type, mem_type, out))
/* `name`: "Cpu", "Cuda", ... */
ORT_WRAP(ort_create_memory_info, ORT_CREATE_MEMORY_INFO,
         (ort_table api, const char *name, int allocator_type, int device, int mem_type, ort_memory_info **out),
         (const char *, int, int, int, ort_memory_info **), (name, allocator_type, device, mem_type, out))
/* The session's own allocator of this kind of memory: its arena. To be released before the session. */
ORT_WRAP(ort_create_allocator, ORT_CREATE_ALLOCATOR,
         (ort_table api, const ort_session *session, const ort_memory_info *info, ort_allocator **out),
         (const ort_session *, const ort_memory_info *, ort_allocator **), (session, info, out))
ORT_WRAP(ort_allocator_alloc, ORT_ALLOCATOR_ALLOC,
         (ort_table api, ort_allocator *allocator, size_t nbytes, void **out), (ort_allocator *, size_t, void **),
         (allocator, nbytes, out))
/* The process's plain CPU allocator; not to be released. */
ORT_WRAP(ort_default_allocator, ORT_DEFAULT_ALLOCATOR, (ort_table api, ort_allocator **out), (ort_allocator **),
         (out))
ORT_WRAP(ort_allocator_free, ORT_ALLOCATOR_FREE, (ort_table api, ort_allocator *allocator, void *memory),
         (ort_allocator *, void *), (allocator, memory))
ORT_WRAP(ort_create_tensor, ORT_CREATE_TENSOR,
         (ort_table api, ort_allocator *allocator, const int64_t *dims, size_t rank, int element_type,
          ort_value **out),
         (ort_allocator *, const int64_t *, size_t, int, ort_value **), (allocator, dims, rank, element_type, out))
/* A tensor over the caller's bytes, which must outlive it. */
ORT_WRAP(ort_create_tensor_with_data, ORT_CREATE_TENSOR_WITH_DATA,
         (ort_table api, const ort_memory_info *info, void *data, size_t nbytes, const int64_t *dims, size_t rank,
          int element_type, ort_value **out),
         (const ort_memory_info *, void *, size_t, const int64_t *, size_t, int, ort_value **),
         (info, data, nbytes, dims, rank, element_type, out))
ORT_WRAP(ort_tensor_data, ORT_TENSOR_DATA, (ort_table api, ort_value *value, void **out), (ort_value *, void **),
         (value, out))
ORT_WRAP(ort_tensor_type_and_shape, ORT_TENSOR_TYPE_AND_SHAPE,
         (ort_table api, const ort_value *value, ort_tensor_info **out), (const ort_value *, ort_tensor_info **),
         (value, out))
ORT_WRAP(ort_tensor_element_type, ORT_ELEMENT_TYPE, (ort_table api, const ort_tensor_info *info, int *out),
         (const ort_tensor_info *, int *), (info, out))
ORT_WRAP(ort_dimension_count, ORT_DIMENSION_COUNT, (ort_table api, const ort_tensor_info *info, size_t *out),
         (const ort_tensor_info *, size_t *), (info, out))
ORT_WRAP(ort_dimensions, ORT_DIMENSIONS, (ort_table api, const ort_tensor_info *info, int64_t *dims, size_t rank),
         (const ort_tensor_info *, int64_t *, size_t), (info, dims, rank))

/* Sum of the lengths of all strings; their bytes one after the other with the offset of each. */
ORT_WRAP(ort_string_data_length, ORT_STRING_DATA_LENGTH, (ort_table api, const ort_value *value, size_t *out),
         (const ort_value *, size_t *), (value, out))
ORT_WRAP(ort_string_content, ORT_STRING_CONTENT,
         (ort_table api, const ort_value *value, void *content, size_t nbytes, size_t *offsets, size_t count),
         (const ort_value *, void *, size_t, size_t *, size_t), (value, content, nbytes, offsets, count))
/* Makes string `i` `nbytes` long and gives its bytes to write: the way in that allows NULs. */
ORT_WRAP(ort_resized_string_buffer, ORT_RESIZED_STRING_BUFFER,
         (ort_table api, ort_value *value, size_t i, size_t nbytes, char **out),
         (ort_value *, size_t, size_t, char **), (value, i, nbytes, out))

#undef ORT_WRAP
#undef ORT_WRAP_RELEASE

#endif
