#include "cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

typedef int (*init_function)(unsigned flags);

int ta_cuda_load(ta_cuda *api, const char *path, char *error, size_t error_nbytes) {
    const char *name = path != NULL ? path : "libcuda.so.1";
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        snprintf(error, error_nbytes, "the NVIDIA driver is not installed (%s can not be loaded)", "libcuda.so.1");
        return -1;
    }
    /* The per-thread default stream is never used, so the plain variants serve. */
    const struct {
        const char *symbol;
        void **slot;
    } wanted[] = {
        {"cuMemcpy", (void **)&api->memcpy_sync},
        {"cuMemcpyAsync", (void **)&api->memcpy_async},
        {"cuMemsetD8Async", (void **)&api->memset_async},
        {"cuStreamWaitEvent", (void **)&api->stream_wait_event},
        {"cuStreamSynchronize", (void **)&api->stream_synchronize},
        {"cuEventRecord", (void **)&api->event_record},
        {"cuEventSynchronize", (void **)&api->event_synchronize},
        {"cuEventQuery", (void **)&api->event_query},
        {"cuEventElapsedTime", (void **)&api->event_elapsed_ms},
        {"cuLaunchHostFunc", (void **)&api->launch_host_function},
        {"cuGraphLaunch", (void **)&api->graph_launch},
        {"cuLaunchKernel", (void **)&api->launch_kernel},
        {"cuGetErrorName", (void **)&api->error_name},
        {"cuGetErrorString", (void **)&api->error_string},
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        *wanted[i].slot = dlsym(library, wanted[i].symbol);
        if (*wanted[i].slot == NULL) {
            snprintf(error, error_nbytes, "the NVIDIA driver is too old: it has no %s", wanted[i].symbol);
            dlclose(library);
            return -1;
        }
    }
    init_function init = (init_function)dlsym(library, "cuInit");
    int result = init == NULL ? -1 : init(0);
    if (result != 0) {
        char text[200];
        ta_cuda_describe(api, result, text, sizeof(text));
        snprintf(error, error_nbytes, "the NVIDIA driver can not be used: %s", text);
        dlclose(library);
        return -1;
    }
    return 0;
}

void ta_cuda_describe(const ta_cuda *api, int result, char *text, size_t nbytes) {
    const char *name = NULL;
    const char *meaning = NULL;
    if (api->error_name(result, &name) != 0 || name == NULL) {
        snprintf(text, nbytes, "CUDA error %d", result);
        return;
    }
    if (api->error_string(result, &meaning) != 0 || meaning == NULL) {
        meaning = "";
    }
    snprintf(text, nbytes, "%s: %s", name, meaning);
}
