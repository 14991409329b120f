# One instance of an ONNX model.

cimport cython
from libc.stdint cimport int32_t

from triton_async.backends.base cimport ModelInstance
from triton_async.backends.onnxruntime.api cimport ort_run_options, ort_value
from triton_async.backends.onnxruntime.device cimport DeviceInputs
from triton_async.backends.onnxruntime.session cimport Session
from triton_async.backends.onnxruntime.values cimport Engine, Port
from triton_async.infer.batch cimport ta_batch, ta_placement
from triton_async.memory.slab cimport SlabPool

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)


# Runs batches without the GIL and without allocating: the arrays below have room for every input and output.
@cython.final
cdef class OnnxRuntimeInstance(ModelInstance):
    cdef Session session                # own or shared with the model's other instances; None once closed
    cdef SlabPool pool
    cdef list names                     # bytes that Port.name points at
    cdef DeviceInputs device_inputs     # None on the CPU
    cdef Engine engine
    cdef int n_inputs
    cdef int n_outputs
    cdef Port *ports                    # inputs, then outputs, in the signature's order
    # So that the loop thread can end a run, and never the next one:
    cdef ort_run_options *run_options
    cdef pthread_mutex_t running_lock   # of the two below, and of changes to run_options
    cdef ta_batch *running              # the batch of the run; NULL: none
    cdef bint terminated                # the run was told to end
    # The run at hand: what is passed to the engine, inputs first. `order` says which output stands there.
    cdef const char **run_names
    cdef ort_value **run_values
    cdef int32_t *order

    cdef int _gather(self, ta_batch *batch, int index) noexcept nogil
    cdef int _wrap_inputs(self, ta_batch *batch) noexcept nogil
    cdef int _wrap_outputs(self, ta_batch *batch) noexcept nogil
    cdef ta_placement *_placement(self, ta_batch *batch, int index) noexcept nogil
    cdef void _begin_run(self, ta_batch *batch) noexcept nogil
    cdef void _end_run(self) noexcept nogil
    cdef bint _given_up(self) noexcept nogil
    cdef int _run(self, ta_batch *batch, int n_inputs) noexcept nogil
    cdef int _run_once(self, ta_batch *batch, int n_inputs, int n_outputs) noexcept nogil
    cdef bint _leased(self, ta_batch *batch, int n_outputs) noexcept nogil
    cdef bint _written(self, ta_batch *batch, int n_outputs) noexcept nogil
    cdef void _take_back(self, ta_batch *batch, int n_outputs) noexcept nogil
    cdef int _take_outputs(self, ta_batch *batch, int n_outputs) noexcept nogil
    cdef void _learn(self, ta_batch *batch, int index) noexcept nogil
    cdef void _release(self, int first, int end) noexcept nogil
