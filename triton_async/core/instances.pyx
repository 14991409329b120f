"""Model instances: one OS thread each, which makes, runs and closes its engine. Waits without the GIL."""

import logging
import threading

from cpython.ref cimport Py_INCREF

from triton_async.backends.base cimport ModelInstance
from triton_async.core.completion cimport CompletionRing
from triton_async.core.wakeup cimport (
    TA_MAILBOX_SLOTS,
    ta_batch,
    ta_completions_push,
    ta_mailbox_free,
    ta_mailbox_new,
    ta_mailbox_put,
    ta_mailbox_take,
    ta_now_ns,
)
from triton_async.infer.batch cimport Batch, check_batch
from triton_async.infer.transfer cimport Transfer
from triton_async.memory.slab cimport SlabPool

from triton_async.defines import INSTANCE_RUN_AHEAD_MAX
from triton_async.errors import InternalError, ServerError

log = logging.getLogger("triton_async.core")

# One runs, the others and the order to stop wait.
assert INSTANCE_RUN_AHEAD_MAX + 2 <= TA_MAILBOX_SLOTS


cdef class Instance:
    """One instance of a loaded model version. `pool`: host slabs for what is copied from GPUs; `use(device_id)`: makes
    a GPU current for the calling thread; `device_id`: the GPU that is the engine's, -1 for none."""

    def __cinit__(self, str name, CompletionRing ring, SlabPool pool, use, int device_id=-1):
        self.name = name
        self.ring = ring
        self.transfer = Transfer(pool, use, device_id)
        self.late = Transfer(pool, use, device_id)
        self.mailbox = ta_mailbox_new()
        if self.mailbox == NULL:
            raise MemoryError

    def __dealloc__(self):
        # The thread holds a reference to its instance, so it has ended.
        if self.mailbox != NULL:
            ta_mailbox_free(self.mailbox)

    def start(self, make_engine, on_started):
        """Starts the thread. It calls `make_engine()`, then `on_started(error or None)`, both on the thread."""
        self.thread = threading.Thread(
            target=self._main, args=(make_engine, on_started), name=f"instance {self.name}", daemon=True
        )
        self.thread.start()

    def stop(self, on_stopped):
        """Ends the thread after the batches it holds; `on_stopped()` is called on the thread, engine closed."""
        self._on_stopped = on_stopped
        self.state = INSTANCE_STOPPING
        ta_mailbox_put(self.mailbox, NULL)

    cdef int run(self, Batch batch) except -1:
        Py_INCREF(batch)  # travels down with it; the completion ring gives it back
        self.in_flight += 1
        ta_mailbox_put(self.mailbox, &batch.c)
        return 0

    def _main(self, make_engine, on_started):
        try:
            self.engine = make_engine()
        except ServerError as error:
            self.state = INSTANCE_STOPPED
            on_started(error)
            return
        except BaseException as error:
            # Its text may name files and is for the log alone.
            log.exception("instance '%s' could not be made", self.name)
            self.state = INSTANCE_STOPPED
            on_started(InternalError(f"{type(error).__name__} while making instance '{self.name}'"))
            return
        del make_engine
        self.engine.sink = _push
        self.engine.sink_context = <void *>self
        self.state = INSTANCE_READY
        on_started(None)
        _serve(self, self.engine)
        try:
            self.engine.close()
        finally:
            self.engine = None
            self.state = INSTANCE_STOPPED
            self._on_stopped()


cdef int _serve(Instance self, ModelInstance engine) except -1:
    cdef ta_batch *batch
    with nogil:
        while True:
            batch = ta_mailbox_take(self.mailbox)
            if batch == NULL:
                break
            batch.compute_start_ns = ta_now_ns()
            if batch.device_inputs:
                self.transfer.stage(batch, not engine.takes_device)
            if batch.failed or engine.submit(batch):
                check_batch(batch)
                self.transfer.settle(batch)
                ta_completions_push(&self.ring.completions, batch)
        engine.drain()
    return 0


# A batch that the engine kept; the instance lives as long as its thread, which drains the engine first.
cdef void _push(void *context, ta_batch *batch) noexcept nogil:
    (<Instance>context).late.forget()
    (<Instance>context).late.settle(batch)
    ta_completions_push(&(<Instance>context).ring.completions, batch)
