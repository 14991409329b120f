# The backend contract: what core asks of an engine. Implementations live beside this file, blind to each other.

from triton_async.infer.batch cimport Batch, ta_batch
from triton_async.infer.event cimport ta_message
from triton_async.infer.factory cimport ResponseFactory
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.transfer cimport Transfer
from triton_async.memory.slab cimport SlabPool

# One engine execution context of a loaded model version, run by one OS thread.
# Made, warmed up and closed on that thread too, unless LoadedModel says otherwise; never used by two threads at once.
cdef class ModelInstance:
    cdef readonly str name               # Triton's instance name, `<group>_<i>`
    # `execute`, or `submit` of one that answers by request, may run on any thread while no batch is out, is done when
    # it returns, and waits for no other thread, so that it may be called with the GIL: core runs the shortest
    # executions on the loop thread.
    cdef readonly bint any_thread
    # Of one that answers by request: `submit` may be called on any thread while no batch is out, and is done when it
    # returns: core runs requests of models on the threads that wait for them.
    cdef readonly bint unbound
    # Set by the instance, on any thread, when its engine will run nothing any more: core drains and closes it, and
    # makes another. Batches that it has are completed, with errors. Not for instances of `any_thread`.
    cdef public bint broken
    # Set by the instance, on any thread with the GIL, while its engine is away and will come back by itself: other
    # instances get the batches, and a model of which all are so is not ready.
    cdef public bint unavailable
    # Inputs may be in GPU memory, but for BYTES; else core copies them to the host first. While it copies core may make
    # another GPU current for the instance's thread, and gives a KIND_GPU instance its own back.
    cdef readonly bint takes_device
    # Batches that it works on at once: so many may be waiting for it, where none of them could grow any more.
    cdef readonly int depth
    # It answers by request: `submit` sets by_request of what it takes, and a ResponseFactory for each request posts its
    # responses and its release, at any time.
    cdef readonly bint by_request
    # Asked, with `takes_here`, whether it takes a batch on the loop thread.
    cdef readonly bint direct
    # Of instances that have the same one, not None, one executes at a time; the others wait on their threads.
    cdef readonly object turn
    # It says itself, by `is_ready`, whether it is.
    cdef readonly bint asks_ready
    # Core's own: where events go, and what copies outputs of single requests. `keeper` keeps `context` alive.
    cdef void (*post)(void *context, ta_message *message) noexcept nogil
    cdef void *context
    cdef object keeper
    cdef Transfer transfer

    # Starts one closed batch. 1: it is done, as by `execute`. 0: the instance works on and gives it to `completed`
    # later, on any thread; several may be out, and they complete in order. Blocks while the instance has no free
    # slot. Instance thread, WITHOUT the GIL. By default: `execute`, then 1. With 1 it may leave events of its response
    # factories in `batch.told`: core posts them together with the batch.
    cdef int submit(self, ta_batch *batch) noexcept nogil
    # Of one that is `direct`: whether `submit` may be called with this batch on the loop thread, just now, since it
    # would return at once without having copied much. `others`: batches of it that core has out; where it has not got
    # all of them, one more would overtake. Loop thread, with the GIL, which is kept until `submit` is called.
    cdef bint takes_here(self, Batch batch, int others) noexcept
    # Hands a batch that `submit` kept to core. Any thread, no GIL; the batch is no longer the instance's. Core copies
    # here what is left to copy: wanted outputs in GPU memory and placements that are not done. An instance that calls
    # from where CUDA may not be called (a host function) leaves none of it.
    cdef void completed(self, ta_batch *batch) noexcept nogil
    # Nobody waits for the batch any more, or the server ends: the engine may give it up, failed. Optional: does nothing
    # by default. Loop thread, at any time between `submit` and the end of the batch, or a little later.
    cdef void cancel(self, ta_batch *batch) noexcept nogil
    # Returns when every batch that `submit` kept is completed. Instance thread, before `close`.
    cdef void drain(self) noexcept nogil

    # Runs one closed batch: gather inputs, run, fill the wanted outputs (or ta_batch_fail), set
    # compute_input_end_ns, compute_output_start_ns and compute_end_ns. Instance thread, WITHOUT the GIL.
    # An output that is wanted and not filled is an error of the batch, made by core.
    cdef void execute(self, ta_batch *batch) noexcept nogil

# Which requests of a model share a batch, beyond the rules of the scheduler: a strategy of its own. Loop thread.
#
#   begin --takes*--> end
cdef class BatchRule:
    cdef readonly ModelSignature signature
    cdef bint begun                      # a batch is

    # A batch begins that no request has been asked for; ends what was begun.
    cdef int begin(self) noexcept
    # Whether the request joins those that it took since. The first one of a batch does whatever it says.
    cdef bint takes(self, InferRequest request) noexcept
    # No request is asked for any more; nothing where nothing was begun.
    cdef int end(self) noexcept

# Makes the batch fail with what was raised, its text cut at TA_ERROR_NBYTES.
cdef int fail_batch(ta_batch *batch, error) except -1

# An instance whose engine answers by request and is called from Python.
cdef class RequestInstance(ModelInstance):
    cdef int _submit_python(self, ta_batch *c) noexcept
    cdef ResponseFactory _factory(self, Batch batch, int number)
    # Of all requests of a batch. None without memory for them: the batch has failed then, as one whole, and no request
    # of it is the engine's.
    cdef list _factories(self, ta_batch *c)

# An instance whose engine is called from Python.
cdef class PythonInstance(ModelInstance):
    cdef SlabPool pool
    cdef int _execute_python(self, ta_batch *c) noexcept
