/* How often the calling thread has lost the processor. */
#ifndef TRITON_ASYNC_SWITCHES_H
#define TRITON_ASYNC_SWITCHES_H

#include <stdint.h>
#include <sys/resource.h>

#ifndef RUSAGE_THREAD
#define RUSAGE_THREAD 1 /* of Linux, which hides it without _GNU_SOURCE */
#endif

typedef struct ta_switches {
    int64_t forced; /* to others, whom the kernel preferred */
    int64_t waited; /* because it had something to wait for */
} ta_switches;

/* 0.3 us. */
static inline ta_switches ta_switches_of_thread(void) {
    struct rusage usage;
    ta_switches switches = {0, 0};
    if (getrusage(RUSAGE_THREAD, &usage) == 0) {
        switches.forced = usage.ru_nivcsw;
        switches.waited = usage.ru_nvcsw;
    }
    return switches;
}

#endif
