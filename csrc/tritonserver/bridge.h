/* What the process around libtritonserver.so gives to it: the log. Registered by triton_async.native, which loads it. */
#ifndef TRITON_ASYNC_BRIDGE_H
#define TRITON_ASYNC_BRIDGE_H

#include "triton/core/tritonserver.h"

#include <stdint.h>

typedef struct ta_process_calls {
    /* A line for the log. Any thread. `level`: TRITONSERVER_LogLevel. */
    void (*log)(int32_t level, const char *file, int32_t line, const char *text);
} ta_process_calls;

/* The table must stay where it is; NULL: there is none any more, and nobody is in a call of the one before when it returns.
 * Any thread, without the GIL. */
void ta_register_process(const ta_process_calls *calls);

/* Which levels are logged: bit TRITONSERVER_LogLevel. Any thread. */
void ta_set_log_levels(uint32_t levels);

/* Hands a line, one that is wanted, to the callback that the program has for lines of the log; false: it has none. Any
 * thread, without the GIL. */
bool ta_call_back_log(int32_t level, const char *file, int32_t line, uint64_t unix_us, const char *text);

#endif
