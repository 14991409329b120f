/* Ends the process when it was told to stop and does not: a thread of its own that takes no lock and no GIL, so that
 * neither an event loop that stands still nor an engine that never returns can hold it up. One for the process.
 */
#ifndef TRITON_ASYNC_WATCHDOG_H
#define TRITON_ASYNC_WATCHDOG_H

#include <stdint.h>

/* From here on the watchdog hears of `signals`, before the handlers that are there now, which still get them. Behind
 * the first of them the process has `limit_ns` to end, behind the second one `again_ns`; then the watchdog ends it with
 * status 1. 0, or -1 with errno; EBUSY when it watches already. */
int ta_watchdog_start(const int *signals, int count, int64_t limit_ns, int64_t again_ns);

/* Ends the watch. The handlers of before are back, but where somebody has set others since. */
void ta_watchdog_stop(void);

#endif
