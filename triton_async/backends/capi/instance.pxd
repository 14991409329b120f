# One instance of a model of a shared library.

from triton_async.backends.base cimport RequestInstance
from triton_async.backends.capi.handles cimport ModelHandle
from triton_async.backends.capi.objects cimport (
    TRITONBACKEND_Model,
    TRITONBACKEND_ModelInstance,
    TRITONBACKEND_Request,
    TRITONSERVER_Error,
    ta_backend_side,
)
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.slab cimport SlabPool

ctypedef TRITONSERVER_Error *(*of_instance_t)(TRITONBACKEND_ModelInstance *instance) noexcept nogil
ctypedef TRITONSERVER_Error *(*execute_t)(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests, unsigned int count
) noexcept nogil

cdef extern from "<pthread.h>":
    ctypedef struct pthread_mutex_t:
        pass

# Held by the instance that executes, on its thread.
cdef class Turn:
    cdef pthread_mutex_t mutex

# Its requests are answered with the batch where all of them are answered while Execute runs, and soon before it
# returns; else each by itself, when the backend says so.
cdef class NativeInstance(RequestInstance):
    cdef readonly ModelSignature signature
    cdef const ta_backend_side *side
    cdef TRITONBACKEND_ModelInstance *c
    cdef execute_t execute_function
    cdef of_instance_t finalize_function
    cdef of_instance_t ready_function
    cdef ModelHandle model
    cdef object asker                    # Asker of the model, or None
    cdef object ready                    # Condition of the next three
    cdef int asked                       # calls of ModelInstanceReady that have not returned
    cdef bint ending                     # there are no further ones
    # What the last of them finalises, as `close` could not wait for it, or NULL.
    cdef TRITONBACKEND_ModelInstance *left
    cdef SlabPool pool
    cdef int prompt                      # executions in a row that kept no answer waiting; below 0: never again

    cdef int _finalise(self, TRITONBACKEND_ModelInstance *c) except -1
    cdef int _returned(self) except -1
