"""Model instances: one OS thread each, which makes, runs and closes its engine, and makes another when it is broken.

The thread of an engine that was made elsewhere starts with the first batch. Waits without the GIL.
"""

import logging
import threading
from time import monotonic_ns as clock

from cpython.ref cimport Py_DECREF, Py_INCREF

from triton_async.backends.base cimport ModelInstance
from triton_async.codes cimport TA_CODE_UNAVAILABLE
from triton_async.core.reactor cimport Errand, Reactor, Sleeper
from triton_async.core.wakeup cimport (
    TA_MAILBOX_SLOTS,
    ta_batch,
    ta_mailbox_free,
    ta_mailbox_leave,
    ta_mailbox_new,
    ta_mailbox_put,
    ta_mailbox_take,
    ta_mailbox_wake,
)
from triton_async.infer.assembly cimport assemble, split_outputs
from triton_async.infer.batch cimport TA_BEGUN, Batch, check_batch, ta_batch_begin, ta_batch_phase
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.event cimport TA_EXECUTED, ta_message
from triton_async.infer.gather cimport ta_batch_fail
from triton_async.infer.transfer cimport Transfer
from triton_async.memory.slab cimport SlabPool

from triton_async.core.retry import Retry
from triton_async.defines import INSTANCE_RETRY_MAX_NS, INSTANCE_RETRY_NS, INSTANCE_RUN_AHEAD_MAX
from triton_async.errors import InternalError, ServerError

log = logging.getLogger("triton_async.core")

# One runs, the others and the order to stop wait.
assert INSTANCE_RUN_AHEAD_MAX + 2 <= TA_MAILBOX_SLOTS


cdef class Borrower(Errand):
    cdef bint keeps(self, ta_message *message) noexcept:
        return False

    cdef int tell(self) noexcept:
        return 0

    cdef int forsaken(self) except -1:
        return 0

    cdef int give_up(self) except -1:
        return 0

    cdef str asked(self):
        return ""


cdef class Instance(Sleeper):
    """One instance of a loaded model version. `pool`: host slabs for what is copied from GPUs; `use(device_id)`: makes
    a GPU current for the calling thread; `device_id`: the GPU that is the engine's, -1 for none."""

    def __cinit__(self, str name, Reactor reactor, SlabPool pool, use, int device_id=-1):
        self.name = name
        self.reactor = reactor
        self.out = []
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
        self.make_engine = make_engine
        self._start_thread(on_started)

    def adopt(self, ModelInstance engine, make_engine):
        """Takes an engine that need not be made on its own thread, which starts with the first batch. READY then.

        `make_engine()`: for another one, on the thread, when this one breaks.
        """
        self.make_engine = make_engine
        self._own(engine)
        self.state = INSTANCE_READY

    def _start_thread(self, on_started):
        thread = threading.Thread(target=self._main, args=(on_started,), name=f"instance {self.name}", daemon=True)
        thread.start()
        self.thread = thread

    @property
    def started(self):
        """Whether the thread was started: it is ended by `stop`, and by `close` where not."""
        return self.thread is not None

    def begin_to_close(self):
        """`close` follows: begins what takes long of it. Blocks no more than a moment."""
        cdef ModelInstance engine = self.engine
        if engine is not None:
            engine.begin_to_close()

    def close(self):
        """Closes the engine of an instance whose thread never started. Blocking; any thread, nobody runs it."""
        engine, self.engine = self.engine, None
        self.state = INSTANCE_STOPPED
        engine.close()

    @property
    def asks_ready(self):
        """Whether the model of the engine says itself if it is ready."""
        cdef ModelInstance engine = self.engine
        return engine is not None and engine.asks_ready

    def is_ready(self):
        """What it says. May block; any thread. ServerError. Not while a broken engine is being replaced."""
        cdef ModelInstance engine = self.engine
        return engine is not None and engine.is_ready()

    def stop(self, on_stopped):
        """Ends the thread after the batches it holds; `on_stopped()` is called on the thread, engine closed."""
        self._on_stopped = on_stopped
        self.state = INSTANCE_STOPPING
        ta_mailbox_put(self.mailbox, NULL)

    cdef int run(self, Batch batch) except -1:
        self.out.append(batch)
        Py_INCREF(batch)  # travels down with it; the reactor gives it back
        self.in_flight += 1
        if self.thread is None:
            try:
                self._start_thread(None)
            except RuntimeError as error:  # a limit of the system; the next batch tries again
                log.error("the thread of instance '%s' could not be started: %s", self.name, str(error))
                _refuse(self, &batch.c, b"the thread of model instance '%.200s' could not be started")
                return 0
        if self.direct and self._run_direct(batch):
            return 0
        ta_mailbox_leave(self.mailbox, &batch.c)
        return self.reactor.wake(self)

    cdef int wake(self) noexcept:
        ta_mailbox_wake(self.mailbox)
        return 0

    # Without waking the thread, for an engine in another process.
    cdef bint _run_direct(self, Batch batch) except -1:
        cdef ModelInstance engine = self.engine
        if engine is None or batch.c.device_inputs or not engine.takes_here(batch, self.in_flight - 1):
            return False
        ta_batch_begin(&batch.c)
        batch.c.compute_start_ns = ta_now_ns()
        if engine.submit(&batch.c):
            check_batch(&batch.c)
            post_for_instance(<void *>self, &batch.c.message)
        return True

    cdef int take_back(self, Batch batch) except -1:
        self.in_flight -= 1
        if self.out[0] is batch:
            self.out.pop(0)
        else:
            self.out.remove(batch)
        return 0

    cdef int cancel(self, Batch batch) except -1:
        cdef ModelInstance engine = self.engine
        if engine is not None and ta_batch_phase(&batch.c) == TA_BEGUN:
            engine.cancel(&batch.c)
        return 0

    def _main(self, on_started):
        if self.engine is None:
            error = self._make()
            if error is not None:
                self.state = INSTANCE_STOPPED
                on_started(error)
                return
            self.state = INSTANCE_READY
            on_started(None)
        try:
            while not (_serve(self) if self.engine is not None else self._do_without()):
                if self.engine is not None and self.engine.broken:
                    self._give_up()
            if self.engine is not None:
                self.engine.close()
        finally:
            self.engine = None
            self.state = INSTANCE_STOPPED
            self._on_stopped()

    # Makes the engine. None, or the error for clients.
    def _make(self):
        try:
            engine = self.make_engine()
        except ServerError as error:
            return error
        except BaseException as error:
            # Its text may name files and is for the log alone.
            log.exception("instance '%s' could not be made", self.name)
            return InternalError(f"{type(error).__name__} while making instance '{self.name}'")
        self._own(engine)
        return None

    def _own(self, ModelInstance engine):
        engine.post = post_for_instance
        engine.context = <void *>self
        engine.keeper = self
        engine.transfer = self.late
        self.depth = engine.depth
        self.any_thread = engine.any_thread
        self.by_request = engine.by_request
        self.direct = engine.direct
        self.engine = engine

    # Closes a broken engine, which has no batch out.
    def _give_up(self):
        log.error("instance '%s' is broken and is made anew", self.name)
        engine, self.engine = self.engine, None
        self.retry = Retry(INSTANCE_RETRY_NS, INSTANCE_RETRY_MAX_NS)
        try:
            engine.close()
        except BaseException:  # of what is broken, anything may fail
            log.exception("instance '%s', which is broken, could not be closed properly", self.name)

    # One step without an engine: makes one, or answers a batch that can not wait until that may be tried again. True
    # when the order to stop came.
    def _do_without(self):
        cdef ta_batch *batch
        if self.retry.is_due(clock()):
            error = self._make()
            if error is None:
                log.info("instance '%s' was made anew", self.name)
                return False
            self.retry.failed(clock())
            log.error("instance '%s' could not be made anew, which is tried again in %d s at the earliest: %s",
                      self.name, self.retry.wait_ns // 1_000_000_000, error.message)
        if self.held == NULL:
            with nogil:
                batch = ta_mailbox_take(self.mailbox)
            if batch == NULL:
                return True
            self.held = batch
            if self.retry.is_due(clock()):
                return False
        batch, self.held = self.held, NULL
        _refuse(self, batch, b"model instance '%.200s' is broken and could not be made anew")
        return False


# Runs batches until the order to stop, True, or until the engine is broken: what it had is completed then, and a batch
# that it did not get is `held`.
cdef bint _serve(Instance self) except -1:
    cdef ModelInstance engine = self.engine
    cdef ta_batch *batch = self.held
    cdef bint stopped = False
    cdef bint uneven
    self.held = NULL
    with nogil:
        while not engine.broken:
            if batch == NULL:
                batch = ta_mailbox_take(self.mailbox)
            if batch == NULL:
                stopped = True
                break
            if engine.broken:  # while the thread slept
                break
            if not ta_batch_begin(batch):
                self.reactor.post(&batch.message)
                batch = NULL
                continue
            batch.compute_start_ns = ta_now_ns()
            uneven = batch.assembly != NULL and not engine.by_request
            if batch.device_inputs:
                # Only the host puts together what differs in shape.
                self.transfer.stage(batch, not engine.takes_device or uneven)
            if uneven and not batch.failed:
                assemble(batch, self.transfer.pool.pool)
            if batch.failed or engine.submit(batch):
                check_batch(batch)
                self.transfer.settle(batch)
                _post_done(self.reactor, batch)
            batch = NULL
        engine.drain()
    self.held = batch
    return stopped


cdef void execute_batch(Instance instance, Batch batch) noexcept nogil:
    ta_batch_begin(&batch.c)
    batch.c.compute_start_ns = ta_now_ns()
    if instance.by_request:
        instance.engine.submit(&batch.c)
        check_batch(&batch.c)
        return
    if batch.c.assembly != NULL:
        assemble(&batch.c, instance.transfer.pool.pool)
    if not batch.c.failed:
        instance.engine.execute(&batch.c)
    check_batch(&batch.c)
    if batch.c.assembly != NULL:
        split_outputs(&batch.c)


# A batch that is done, behind what its engine has to tell of it: the loop is woken once.
cdef void _post_done(Reactor reactor, ta_batch *batch) noexcept nogil:
    cdef ta_message *last = batch.told
    if last == NULL:
        reactor.post(&batch.message)
        return
    while last.next != NULL:
        last = last.next
    last.next = &batch.message
    batch.message.next = NULL
    reactor.post_all(batch.told)


# Answers a batch that no engine gets. `reason`: a format with a place for the instance's name.
cdef void _refuse(Instance self, ta_batch *batch, const char *reason) noexcept:
    cdef bytes name = self.name.encode()
    if not ta_batch_begin(batch):
        self.reactor.post(&batch.message)
        return
    batch.compute_start_ns = ta_now_ns()
    ta_batch_fail(batch, TA_CODE_UNAVAILABLE, reason, <const char *>name)
    check_batch(batch)
    self.reactor.post(&batch.message)


# The instance lives as long as its thread, which drains the engine first, and as long as a response factory.
cdef void post_for_instance(void *context, ta_message *message) noexcept nogil:
    cdef ta_batch *batch
    if (<Instance>context).reactor is None:
        with gil:
            Py_DECREF(<object>message.owner)
        return
    if (<Instance>context).desk == DESK_BORROWED and _is_kept(<Instance>context, message):
        return
    if message.event == TA_EXECUTED:
        batch = <ta_batch *>message  # which it is the first member of
        (<Instance>context).late.forget()
        (<Instance>context).late.settle(batch)
    (<Instance>context).reactor.post(message)


cdef bint _is_kept(Instance self, ta_message *message) noexcept nogil:
    with gil:
        return message.event != TA_EXECUTED and self.borrower is not None and self.borrower.keeps(message)


cdef int offer(list idle) noexcept:
    cdef Instance instance
    for instance in idle:
        if instance.desk == DESK_KEPT:
            instance.desk = DESK_OFFERED
    return 0


cdef int call_in(list instances) noexcept:
    cdef Instance instance
    for instance in instances:
        if instance.desk == DESK_OFFERED:
            instance.desk = DESK_KEPT
        elif instance.desk == DESK_BORROWED:
            instance.wanted = True
    return 0


cdef bint has_lent(list instances) noexcept:
    cdef Instance instance
    for instance in instances:
        if instance.desk == DESK_BORROWED:
            return True
    return False
