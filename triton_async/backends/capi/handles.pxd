# A loaded library, its backend, and the models of that, as objects of libtritonserver.so that Python owns.

from triton_async.backends.capi.objects cimport (
    TRITONBACKEND_Backend,
    TRITONBACKEND_Model,
    TRITONSERVER_Error,
    ta_backend_side,
)

from triton_async.infer.signature cimport ModelSignature

ctypedef TRITONSERVER_Error *(*of_backend_t)(TRITONBACKEND_Backend *backend) noexcept nogil
ctypedef TRITONSERVER_Error *(*of_model_t)(TRITONBACKEND_Model *model) noexcept nogil

cdef class Library:
    cdef void *handle                    # of dlopen; never closed: the library may have threads
    cdef readonly str file               # its name, without folders
    cdef readonly str threads            # why its code may notice which thread calls it; None: it can not

    # The address of a function; NULL when it has none of that name.
    cdef void *entry(self, bytes name) noexcept

# Load threads. Closed behind all its models.
cdef class BackendHandle:
    cdef const ta_backend_side *side
    cdef TRITONBACKEND_Backend *c
    cdef readonly Library library
    cdef readonly str name
    cdef readonly bint device_blocking
    cdef readonly bint parallel_loading
    cdef readonly tuple groups           # preferred instance groups: (kind, count, GPUs or None)
    cdef object memory                   # who serves the memory manager
    cdef int models                      # that are not finalised

# Of one version. Closed behind all its instances. ModelInitialize and ModelFinalize are called on load threads.
cdef class ModelHandle:
    cdef const ta_backend_side *side
    cdef TRITONBACKEND_Model *c
    cdef readonly BackendHandle backend
    cdef readonly str name
    cdef readonly bint initialised
    cdef readonly object completed       # the config that the backend set, a dict; None: none
    cdef readonly dict memory            # who says that it takes how much: instance or 0 -> ((type, id, bytes), …)
    cdef readonly object asker           # Asker, or None: there is no server to be asked
    cdef object on_config                # (dict) -> dict: what a config becomes that the backend sets
    cdef int held                        # instances that are finalised later than it was closed
    cdef bint closed

    # It is not finalised before as many `let_go`. Any thread with the GIL.
    cdef int hold(self) except -1
    cdef int let_go(self) except -1
    cdef int _finalise(self) except -1

# What a model's requests are made of. `states`: names of outputs that are states of sequences.
cdef int fill_specs(TRITONBACKEND_Model *c, ModelSignature signature, states) except -1
