/* The one clock: CLOCK_MONOTONIC in nanoseconds, as asyncio's loop.time() and timerfd use it. And the time of day. */
#ifndef TRITON_ASYNC_CLOCK_H
#define TRITON_ASYNC_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t ta_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Milliseconds since 1970, as of the kernel's last tick, which is some of them old. */
static inline int64_t ta_epoch_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

#endif
