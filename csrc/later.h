/* What takes long to give back is given back by a thread: unmapping takes a millisecond for every few MiB, and whoever
 * lets go of memory may be the event loop, or hold the GIL. Any thread, no GIL. */
#ifndef TRITON_ASYNC_LATER_H
#define TRITON_ASYNC_LATER_H

/* Memory of so many bytes is worth a thread. */
#define TA_LATER_NBYTES (1 << 20)

/* Calls `release(owner)` on a thread that ends when there is nothing left; here and now where none is to be had.
 * `release` takes no lock of its caller and no GIL. */
void ta_later(void (*release)(void *owner), void *owner);

/* Waits until all of that is done, for whoever takes away what it needs. */
void ta_later_settle(void);

#endif
