/* Which calls to run a small model with: Run or IO binding, outputs in our slabs or in the engine's memory.
 *
 *   gcc -O2 -Icsrc bench/micro/onnxruntime_calls.c csrc/slab.c csrc/later.c -o calls -ldl -pthread
 *   ./calls <libonnxruntime.so> <add_sub.onnx: INPUT0, INPUT1 -> OUTPUT0, OUTPUT1, FP32[n,16]>
 *
 * Prints the least CPU time per run of several rounds, in µs.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ort_api.h"
#include "slab.h"

#define RUNS 50000
#define ROUNDS 9
#define NBYTES 64

/* Entries that only this measurement needs. */
enum { RUN_WITH_BINDING = 133, CREATE_BINDING = 134, BIND_INPUT = 136, BIND_OUTPUT = 137, BIND_TO_DEVICE = 138,
       BOUND_VALUES = 140, CLEAR_INPUTS = 141, CLEAR_OUTPUTS = 142 };
typedef struct binding binding;
typedef ort_status *(*bind_value)(binding *, const char *, const ort_value *);

static const char *const INPUTS[] = {"INPUT0", "INPUT1"}, *const OUTPUTS[] = {"OUTPUT0", "OUTPUT1"};
static ort_table api;
static ort_session *session;
static ort_memory_info *memory;
static ort_allocator *allocator;
static ort_run_options *options;
static binding *bound;

static void check(ort_status *status) {
    if (status != NULL) {
        fprintf(stderr, "%s\n", ort_get_error_message(api, status));
        exit(1);
    }
}

static double cpu_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static void run_bound(ort_value **in, ort_value **out, int slabs) {
    for (int k = 0; k < 2; k++) {
        check(((bind_value)api[BIND_INPUT])(bound, INPUTS[k], in[k]));
        if (slabs) {
            check(((bind_value)api[BIND_OUTPUT])(bound, OUTPUTS[k], out[k]));
        } else {
            check(((ort_status * (*)(binding *, const char *, ort_memory_info *)) api[BIND_TO_DEVICE])(
                bound, OUTPUTS[k], memory));
        }
    }
    check(((ort_status * (*)(ort_session *, ort_run_options *, binding *)) api[RUN_WITH_BINDING])(session, options,
                                                                                                  bound));
    if (!slabs) {
        ort_value **values;
        size_t count;
        check(((ort_status * (*)(binding *, ort_allocator *, ort_value ***, size_t *)) api[BOUND_VALUES])(
            bound, allocator, &values, &count));
        out[0] = values[0];
        out[1] = values[1];
        check(ort_allocator_free(api, allocator, values));
    }
    ((void (*)(binding *))api[CLEAR_INPUTS])(bound);
    ((void (*)(binding *))api[CLEAR_OUTPUTS])(bound);
}

static void read_shape(ort_value *value) {
    ort_tensor_info *info;
    size_t rank;
    int64_t dims[8];
    int type;
    void *data;
    check(ort_tensor_type_and_shape(api, value, &info));
    check(ort_tensor_element_type(api, info, &type));
    check(ort_dimension_count(api, info, &rank));
    check(ort_dimensions(api, info, dims, rank));
    check(ort_tensor_data(api, value, &data));
    ort_release_tensor_info(api, info);
}

static void run_once(ta_slab_pool *pool, int binds, int slabs) {
    static float bytes[2][NBYTES / sizeof(float)];
    const int64_t dims[] = {1, 16};
    ort_value *in[2], *out[2] = {NULL, NULL};
    ta_slab *slab[2];
    for (int k = 0; k < 2; k++) {
        check(ort_create_tensor_with_data(api, memory, bytes[k], NBYTES, dims, 2, ORT_ELEMENT_FLOAT, &in[k]));
        if (slabs) {
            slab[k] = ta_slab_lease(pool, NBYTES);
            check(ort_create_tensor_with_data(api, memory, ta_slab_data(slab[k]), NBYTES, dims, 2, ORT_ELEMENT_FLOAT,
                                              &out[k]));
        }
    }
    if (binds) {
        run_bound(in, out, slabs);
    } else {
        check(ort_run(api, session, options, INPUTS, (const ort_value *const *)in, 2, OUTPUTS, 2, out));
    }
    for (int k = 0; k < 2; k++) {
        ort_release_value(api, in[k]);
        if (!slabs) {
            read_shape(out[k]);
        }
        ort_release_value(api, out[k]);
        if (slabs) {
            ta_slab_return(slab[k]);
        }
    }
}

int main(int argc, char **argv) {
    void *library = argc == 3 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (library == NULL) {
        fprintf(stderr, "usage: %s <libonnxruntime.so> <add_sub.onnx>\n", argv[0]);
        return 2;
    }
    ort_api_base *(*get_base)(void) = (ort_api_base * (*)(void)) dlsym(library, "OrtGetApiBase");
    api = get_base()->get_api(ORT_API_VERSION);
    ort_env *env;
    ort_session_options *settings;
    check(ort_create_env(api, ORT_LOG_FATAL, "bench", &env));
    check(ort_create_session_options(api, &settings));
    check(ort_set_intra_op_threads(api, settings, 1));
    check(ort_create_session(api, env, argv[2], settings, &session));
    check(ort_create_cpu_memory_info(api, ORT_DEVICE_ALLOCATOR, ORT_MEM_TYPE_DEFAULT, &memory));
    check(ort_default_allocator(api, &allocator));
    check(ort_create_run_options(api, &options));
    check(((ort_status * (*)(ort_session *, binding **)) api[CREATE_BINDING])(session, &bound));
    ta_slab_pool *pool = ta_slab_pool_new(1 << 20);
    for (int mode = 0; mode < 4; mode++) {
        double best = 1e30;
        for (int round = 0; round < ROUNDS; round++) {
            double start = cpu_us();
            for (int i = 0; i < RUNS; i++) {
                run_once(pool, mode & 1, mode & 2);
            }
            double used = (cpu_us() - start) / RUNS;
            best = used < best ? used : best;
        }
        printf("%-10s outputs in %-15s %.2f\n", mode & 1 ? "IO binding" : "Run", mode & 2 ? "slabs" : "engine's memory",
               best);
    }
    return 0;
}
