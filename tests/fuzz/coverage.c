/* Tells libFuzzer which code of modules built with gcc's -fsanitize-coverage=trace-pc,trace-cmp ran: libFuzzer has no
 * entry for trace-pc any more, only for tables of counters. One thread.
 */
#include <dlfcn.h>
#include <stdint.h>

enum { SIZE = 1 << 15 };

static uint8_t counters[SIZE];
static uintptr_t places[SIZE][2]; /* libFuzzer wants an address and flags for every counter */

void __sanitizer_cov_trace_pc(void) {
    uintptr_t place = (uintptr_t)__builtin_return_address(0);
    uint8_t *counter = &counters[(place * 0x9E3779B97F4A7C15u) >> 49];
    *counter += *counter != 255;
}

/* Tail calls: libFuzzer takes the return address for the place of the comparison. */
#define FORWARD(name, type)                    \
    static void (*take_##name)(type, type);    \
    void __sanitizer_cov_##name(type a, type b) { \
        take_##name(a, b);                     \
    }
FORWARD(trace_cmp1, uint8_t)
FORWARD(trace_cmp2, uint16_t)
FORWARD(trace_cmp4, uint32_t)
FORWARD(trace_cmp8, uint64_t)
FORWARD(trace_const_cmp1, uint8_t)
FORWARD(trace_const_cmp2, uint16_t)
FORWARD(trace_const_cmp4, uint32_t)
FORWARD(trace_const_cmp8, uint64_t)
FORWARD(trace_switch, uintptr_t)

void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a, (void)b; }
void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a, (void)b; }

/* `library`: handle of the one that holds libFuzzer. Before any module with coverage is loaded. */
void start(void *library) {
    void (*add_counters)(void *, void *) = dlsym(library, "__sanitizer_cov_8bit_counters_init");
    void (*add_places)(void *, void *) = dlsym(library, "__sanitizer_cov_pcs_init");
#define FIND(name) take_##name = dlsym(library, "__sanitizer_cov_" #name)
    FIND(trace_cmp1), FIND(trace_cmp2), FIND(trace_cmp4), FIND(trace_cmp8);
    FIND(trace_const_cmp1), FIND(trace_const_cmp2), FIND(trace_const_cmp4), FIND(trace_const_cmp8);
    FIND(trace_switch);
    for (int i = 0; i < SIZE; i++)
        places[i][0] = (uintptr_t)&counters[i];
    add_counters(counters, counters + SIZE);
    add_places(places, places + SIZE);
}
