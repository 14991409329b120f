"""Batching strategies of shared libraries (Triton's TRITON_BATCH_STRATEGY_PATH): which requests share a batch."""

import json
import logging
import os

cimport cython

from triton_async.backends.base cimport BatchRule
from triton_async.backends.capi.calls cimport side_table, taken_error
from triton_async.backends.capi.handles cimport Library, ModelHandle, fill_specs
from triton_async.backends.capi.objects cimport (
    TA_MAGIC_INPUT,
    TRITONBACKEND_Input,
    TRITONBACKEND_Model,
    TRITONSERVER_Error,
)
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport Tensor

from triton_async.errors import InvalidArg

log = logging.getLogger("triton_async.native")

HOOKS = (
    "TRITONBACKEND_ModelBatcherInitialize", "TRITONBACKEND_ModelBatcherFinalize", "TRITONBACKEND_ModelBatchInitialize",
    "TRITONBACKEND_ModelBatchIncludeRequest", "TRITONBACKEND_ModelBatchFinalize",
)


def has_hooks(Library library):
    """Whether the library has the hooks of a batching strategy. InvalidArg when it has some of them."""
    missing = [name for name in HOOKS if library.entry(name.encode()) == NULL]
    if missing and len(missing) < len(HOOKS):
        raise InvalidArg(f"unable to find entrypoint '{missing[0]}' in library '{library.file}', which has other "
                         "functions of a batching strategy")
    return not missing


@cython.final
cdef class NativeRule(BatchRule):
    """The strategy of `library`, which has hooks, for a model: `model` of a library's backend, or what hooks see of a
    model of another engine: its `config`, and its `directory`. ServerError of ModelBatcherInitialize."""

    def __init__(self, Library library, ModelSignature signature, *, ModelHandle model=None, config=None,
                 directory=None):
        cdef bytes name = signature.model_name.encode()
        cdef bytes location
        cdef bytes c_config
        self.signature = signature
        self.side = side_table()
        self.kept = (library, model)
        try:
            if model is not None:
                self.model = model.c
            else:
                location = os.fsencode(directory)
                c_config = json.dumps(config).encode()
                self.own_backend = self.side.backend_new(config.get("backend", "").encode(), location, b"{}")
                if self.own_backend == NULL:
                    raise MemoryError
                self.model = self.side.model_new(self.own_backend, name, signature.model_version, location, c_config, 0)
                if self.model == NULL:
                    raise MemoryError
                fill_specs(self.model, signature, ())
            self.nobody = self.side.instance_new(self.model, name, 0, 0, b"{}")
            if self.nobody == NULL:
                raise MemoryError
            self.nobody.owner = <void *>self
            self.request = self.side.peek_new(self.nobody, len(signature.inputs))
            if self.request == NULL:
                raise MemoryError
            self._initialise(library)
        except BaseException:
            self.close()
            raise

    cdef int _initialise(self, object library_) except -1:
        cdef Library library = library_
        cdef make_batcher_t make = <make_batcher_t>library.entry(b"TRITONBACKEND_ModelBatcherInitialize")
        cdef TRITONSERVER_Error *error
        self.finalize_batcher = <of_batcher_t>library.entry(b"TRITONBACKEND_ModelBatcherFinalize")
        self.begin_batch = <begin_batch_t>library.entry(b"TRITONBACKEND_ModelBatchInitialize")
        self.include_request = <include_t>library.entry(b"TRITONBACKEND_ModelBatchIncludeRequest")
        self.end_batch = <of_userp_t>library.entry(b"TRITONBACKEND_ModelBatchFinalize")
        with nogil:
            error = make(&self.batcher, self.model)
        problem = taken_error(error)
        if problem is not None:
            raise problem
        self.initialised = True
        return 0

    cdef int begin(self) noexcept:
        cdef TRITONSERVER_Error *error
        self.end()
        self.userp = NULL
        self.complained = False
        with nogil:
            error = self.begin_batch(self.batcher, &self.userp)
        self.begun = True
        return self._complain(error, "ModelBatchInitialize")

    cdef bint takes(self, InferRequest request) noexcept:
        cdef TRITONSERVER_Error *error
        cdef unsigned char included = 0
        self.request.inferred = <void *>request
        self.request.rows = request.rows
        self.request.wanted = request.wanted
        self.request.n_inputs = _fill_inputs(self.request.inputs, self.model, self.signature, request)
        with nogil:
            error = self.include_request(self.request, self.userp, &included)
            self.side.peek_clear(self.request)
        if error != NULL:
            self._complain(error, "ModelBatchIncludeRequest")
            return False
        return included != 0

    cdef int end(self) noexcept:
        cdef TRITONSERVER_Error *error
        if not self.begun:
            return 0
        self.begun = False
        with nogil:
            error = self.end_batch(self.userp)
        self.userp = NULL
        return self._complain(error, "ModelBatchFinalize")

    cdef int _complain(self, TRITONSERVER_Error *error, str what) noexcept:
        problem = taken_error(error)
        if problem is not None and not self.complained:
            self.complained = True
            log.error("TRITONBACKEND_%s of model '%s' failed: %s", what, self.signature.model_name, problem.message)
        return 0

    def close(self):
        """See BatchRule."""
        cdef TRITONSERVER_Error *error
        self.end()
        if self.initialised:
            self.initialised = False
            with nogil:
                error = self.finalize_batcher(self.batcher)
            self.complained = False
            self._complain(error, "ModelBatcherFinalize")
        if self.request != NULL:
            self.side.peek_free(self.request)
            self.request = NULL
        if self.nobody != NULL:
            self.side.instance_free(self.nobody)
            self.nobody = NULL
        if self.own_backend != NULL:
            self.side.model_free(self.model)
            self.side.backend_free(self.own_backend)
            self.own_backend = NULL
        self.model = NULL


# The inputs that a request brings, as the engine will see them; their number.
cdef unsigned int _fill_inputs(TRITONBACKEND_Input *inputs, const TRITONBACKEND_Model *model, ModelSignature signature,
                               InferRequest request) noexcept:
    cdef TRITONBACKEND_Input *input
    cdef TensorSpec spec
    cdef Tensor tensor
    cdef unsigned int count = 0
    cdef int rank
    cdef int i
    for i in range(model.n_inputs):
        tensor = <Tensor>request.slots[i]
        if tensor is None:
            continue
        spec = <TensorSpec>signature.inputs[i]
        input = &inputs[count]
        count += 1
        input.magic = TA_MAGIC_INPUT
        input.name = model.inputs[i].name
        input.datatype = tensor.datatype
        input.data = tensor.data
        input.nbytes = tensor.nbytes
        input.memory_type = 0 if tensor.buffer is None else tensor.buffer.memory_type
        input.device_id = 0 if tensor.buffer is None else tensor.buffer.device_id
        rank = spec.engine_dims(tensor.dims, tensor.rank, signature.max_batch_size > 0, input.dims)
        input.rank = rank if rank >= 0 else 0
    return count
