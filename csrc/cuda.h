/* The CUDA driver's functions that instance threads call without the GIL, looked up when a GPU is first used.
 *
 * Only what a batch needs on its way: allocation, IPC and everything else that runs once goes through CuPy
 * (triton_async.memory.devices). Handles are the driver's own, so both sides mean the same stream by the same
 * number. Every function returns 0 or a CUresult; the calling thread must have a current context.
 */
#ifndef TRITON_ASYNC_CUDA_H
#define TRITON_ASYNC_CUDA_H

#include <stddef.h>
#include <stdint.h>

typedef uint64_t ta_device_ptr; /* CUdeviceptr; with unified addressing also a host address */
typedef void *ta_cuda_stream;   /* CUstream, cudaStream_t */
typedef void *ta_cuda_event;    /* CUevent, cudaEvent_t */
typedef void *ta_cuda_graph;    /* CUgraphExec, instantiated */
typedef void *ta_cuda_function; /* CUfunction */
typedef void (*ta_cuda_host_function)(void *argument);

enum { TA_CUDA_NOT_READY = 600 }; /* CUDA_ERROR_NOT_READY, of the queries */

typedef struct ta_cuda {
    int (*memcpy_sync)(ta_device_ptr to, ta_device_ptr from, size_t nbytes); /* cuMemcpy */
    int (*memcpy_async)(ta_device_ptr to, ta_device_ptr from, size_t nbytes, ta_cuda_stream stream);
    int (*memset_async)(ta_device_ptr to, unsigned char value, size_t nbytes, ta_cuda_stream stream);
    int (*stream_wait_event)(ta_cuda_stream stream, ta_cuda_event event, unsigned flags);
    int (*stream_synchronize)(ta_cuda_stream stream);
    int (*event_record)(ta_cuda_event event, ta_cuda_stream stream);
    int (*event_synchronize)(ta_cuda_event event);
    int (*event_query)(ta_cuda_event event);
    int (*event_elapsed_ms)(float *ms, ta_cuda_event start, ta_cuda_event end);
    int (*launch_host_function)(ta_cuda_stream stream, ta_cuda_host_function function, void *argument);
    int (*graph_launch)(ta_cuda_graph graph, ta_cuda_stream stream);
    int (*launch_kernel)(ta_cuda_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                         unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_nbytes,
                         ta_cuda_stream stream, void **arguments, void **extra);
    int (*error_name)(int result, const char **name);
    int (*error_string)(int result, const char **text);
} ta_cuda;

/* Fills `api` from the library at `path`, NULL for the driver's (libcuda.so.1), and initialises the driver.
 * 0, or -1 with the reason in `error`. The library stays loaded. */
int ta_cuda_load(ta_cuda *api, const char *path, char *error, size_t error_nbytes);

/* "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered", cut at `nbytes`. */
void ta_cuda_describe(const ta_cuda *api, int result, char *text, size_t nbytes);

#endif
