/* Mappings of files that somebody else may make smaller. Reading or writing behind the new end would end the process
 * by SIGBUS; behind a guard the rest of the mapping becomes private memory of zeros instead, and the guard is broken.
 */
#ifndef TRITON_ASYNC_GUARD_H
#define TRITON_ASYNC_GUARD_H

#include <stddef.h>

enum { TA_MAX_GUARDS = 1 << 16 };

/* Guards a mapping, whole pages. The guard's number, or -1 with errno: ENOSPC when there are too many. With the GIL, as
 * `ta_guard_remove`: one of both at a time. */
int ta_guard_add(void *begin, size_t nbytes);
/* Before the mapping goes. */
void ta_guard_remove(int guard);
/* Whether something of the mapping was missing when it was used. Any thread. */
int ta_guard_broken(int guard);

#endif
