"""The `identity` test backend: output i is input i. Parameter `execute_delay_ms` makes it slow on purpose."""

cimport cython
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from triton_async.backends.base cimport ModelInstance
from triton_async.codes cimport TA_CODE_INTERNAL
from triton_async.infer.batch cimport ta_batch, ta_tensor
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.gather cimport ta_batch_fail, ta_gather
from triton_async.memory.slab cimport SlabPool, ta_slab, ta_slab_data, ta_slab_lease, ta_slab_pool, ta_slab_return

from triton_async.backends.base import Backend, LoadedModel
from triton_async.errors import InvalidArg

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec *requested, timespec *remaining)


@cython.final
cdef class IdentityInstance(ModelInstance):
    cdef SlabPool pool
    cdef int64_t delay_ms

    def __init__(self, str name, SlabPool pool, int64_t delay_ms):
        ModelInstance.__init__(self, name)
        self.pool = pool
        self.delay_ms = delay_ms
        self.any_thread = delay_ms == 0

    cdef void execute(self, ta_batch *batch) noexcept nogil:
        cdef timespec delay
        cdef int i
        for i in range(batch.n_inputs):
            if ta_gather(&batch.inputs[i], self.pool.pool) < 0:
                ta_batch_fail(batch, TA_CODE_INTERNAL, "no memory to gather the inputs of a batch")
                return
        batch.compute_input_end_ns = ta_now_ns()
        if self.delay_ms:
            delay.tv_sec = self.delay_ms // 1000
            delay.tv_nsec = self.delay_ms % 1000 * 1000000
            nanosleep(&delay, NULL)
        batch.compute_output_start_ns = ta_now_ns()
        for i in range(batch.n_outputs):
            if batch.outputs[i].wanted and batch.inputs[i].wanted:
                if _copy(&batch.inputs[i], &batch.outputs[i], self.pool.pool) < 0:
                    ta_batch_fail(batch, TA_CODE_INTERNAL, "no memory for the outputs of a batch")
                    return
        batch.compute_end_ns = ta_now_ns()


cdef int _copy(ta_tensor *source, ta_tensor *to, ta_slab_pool *pool) noexcept nogil:
    cdef ta_slab *slab = ta_slab_lease(pool, source.nbytes)
    if slab == NULL:
        return -1
    to.data = ta_slab_data(slab)
    to.nbytes = source.nbytes
    to.rank = source.rank
    memcpy(to.dims, source.dims, sizeof(source.dims))
    if source.nbytes:
        memcpy(to.data, source.data, source.nbytes)
    to.owner = slab
    to.release = ta_slab_return
    return 0


class IdentityModel(LoadedModel):
    """One identity model: nothing to share but its delay."""

    thread_bound = False

    def __init__(self, context):
        parameters = context.config.parameters
        pairs = zip(context.signature.inputs, context.signature.outputs, strict=False)
        if len(context.signature.inputs) < len(context.signature.outputs) or any(
            i.datatype != o.datatype for i, o in pairs
        ):
            raise InvalidArg("the identity backend needs one input of the same data type for each output")
        try:
            self.delay_ms = int(parameters.get("execute_delay_ms", "0"))
        except ValueError:
            raise InvalidArg("parameter 'execute_delay_ms' must be an integer number of milliseconds") from None
        self.pool = context.pool

    def create_instance(self, name, group, device_id):
        return IdentityInstance(name, self.pool, self.delay_ms)


class IdentityBackend(Backend):
    """Triton's identity backend, as its tests use it."""

    name = "identity"
    assembles = frozenset(("allow_ragged_batch", "batch_input", "batch_output", "padding"))

    def load(self, context):
        return IdentityModel(context)
