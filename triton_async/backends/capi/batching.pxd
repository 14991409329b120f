# A batching strategy: the hooks of a shared library, which say what requests share a batch.

from triton_async.backends.base cimport BatchRule
from triton_async.backends.capi.objects cimport (
    TRITONBACKEND_Backend,
    TRITONBACKEND_Model,
    TRITONBACKEND_ModelInstance,
    TRITONBACKEND_Request,
    TRITONSERVER_Error,
    ta_backend_side,
)

ctypedef TRITONSERVER_Error *(*make_batcher_t)(void **batcher, TRITONBACKEND_Model *model) noexcept nogil
ctypedef TRITONSERVER_Error *(*of_batcher_t)(void *batcher) noexcept nogil
ctypedef TRITONSERVER_Error *(*begin_batch_t)(const void *batcher, void **userp) noexcept nogil
ctypedef TRITONSERVER_Error *(*include_t)(TRITONBACKEND_Request *request, void *userp,
                                          unsigned char *should_include) noexcept nogil
ctypedef TRITONSERVER_Error *(*of_userp_t)(void *userp) noexcept nogil

# Hooks are called without the GIL.
cdef class NativeRule(BatchRule):
    cdef const ta_backend_side *side
    cdef object kept                     # what the model is of
    cdef TRITONBACKEND_Model *model      # that hooks see
    cdef TRITONBACKEND_Backend *own_backend  # made for it alone, of a model of another engine; NULL: it is the model's
    cdef TRITONBACKEND_ModelInstance *nobody  # stands for the instance that requests in the queue have not got
    cdef TRITONBACKEND_Request *request  # as which each of them is looked at
    cdef void *batcher
    cdef bint initialised
    cdef void *userp
    cdef bint complained                 # an error of each hook is logged once a batch at most
    cdef of_batcher_t finalize_batcher
    cdef begin_batch_t begin_batch
    cdef include_t include_request
    cdef of_userp_t end_batch

    cdef int _initialise(self, object library) except -1
    cdef int _complain(self, TRITONSERVER_Error *error, str what) noexcept
