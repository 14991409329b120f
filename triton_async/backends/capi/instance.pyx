"""Instances of models of shared libraries: one thread, which initialises, executes and finalises them."""

cimport cython
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from triton_async.backends.base cimport RequestInstance
from triton_async.backends.capi.asking cimport Asker, note_running
from triton_async.backends.capi.calls cimport go_live, side_table, taken_error
from triton_async.backends.capi.handles cimport ModelHandle
from triton_async.backends.capi.objects cimport (
    TA_MAGIC_INPUT,
    TRITONBACKEND_Input,
    TRITONBACKEND_Model,
    TRITONBACKEND_ModelInstance,
    TRITONBACKEND_Request,
    TRITONSERVER_Error,
    ta_execution,
    ta_spec,
)
from triton_async.codes cimport TA_CODE_INTERNAL
from triton_async.infer.batch cimport Batch, ta_batch, ta_segment, ta_tensor
from triton_async.infer.gather cimport ta_batch_fail
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.slab cimport SlabPool

import json
import logging
from contextlib import nullcontext
from threading import Condition

from triton_async.backends.capi.defines import PROMPT_NS, PROMPT_TRUST, READY_END_S

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)

# PyList_GET_ITEM without the reference that Cython would take, which needs the GIL.
cdef extern from "Python.h":
    void *_item "PyList_GET_ITEM" (void *found, Py_ssize_t index) noexcept nogil

log = logging.getLogger("triton_async.native")

cdef int64_t _PROMPT_NS = PROMPT_NS
cdef int _PROMPT_TRUST = PROMPT_TRUST


@cython.final
cdef class Turn:
    """Of instances of a model that take turns: one of them executes at a time."""

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)


# Factories that the garbage collector takes away with it post through its fields.
@cython.final
@cython.no_gc_clear
cdef class NativeInstance(RequestInstance):
    """`kind`, `device_id`: what the backend is told; `turn`: with which others it takes turns, or None; `starting`: a
    lock that holds others back while it is initialised, or None; `any_thread`: its executions do not depend on theirs.
    ServerError of ModelInstanceInitialize."""

    def __init__(self, str name, ModelHandle model, ModelSignature signature, SlabPool pool, int kind, int device_id,
                 bint passive, str host_policy, profiles, Turn turn, starting, bint any_thread=False):
        RequestInstance.__init__(self, name)
        self.any_thread = any_thread
        self.signature = signature
        self.model = model
        self.pool = pool
        self.turn = turn
        self.side = side_table()
        self.execute_function = <execute_t>model.backend.library.entry(b"TRITONBACKEND_ModelInstanceExecute")
        self.finalize_function = <of_instance_t>model.backend.library.entry(b"TRITONBACKEND_ModelInstanceFinalize")
        self.ready_function = <of_instance_t>model.backend.library.entry(b"TRITONBACKEND_ModelInstanceReady")
        self.asks_ready = self.ready_function != NULL
        self.ready = Condition()
        self.asker = model.asker
        self._make(model, kind, device_id, passive, host_policy, [profile.encode() for profile in profiles])
        with nullcontext() if starting is None else starting:
            problem = self._initialise(model)
        if problem is not None:
            self.close()
            raise problem
        if self.asker is not None:
            (<Asker>self.asker).instances.append(self)

    @property
    def executes(self):
        """Whether Execute is running."""
        return self.c != NULL and self.c.executing != 0

    def _make(self, ModelHandle model, int kind, int device_id, bint passive, str host_policy, list profiles):
        cdef bytes name = self.name.encode()
        cdef bytes policy = json.dumps({host_policy: {}}).encode()
        cdef const char *names[64]
        cdef bytes profile
        cdef int count = 0
        for profile in profiles[:64]:
            names[count] = profile
            count += 1
        self.c = self.side.instance_new(model.c, name, kind, device_id, policy)
        if self.c == NULL or self.side.instance_set_lists(self.c, names, count, NULL, NULL, 0) != 0:
            raise MemoryError
        self.c.owner = <void *>self
        self.c.pool = self.pool.pool
        self.c.passive = passive

    def _initialise(self, ModelHandle model):
        cdef of_instance_t initialize = <of_instance_t>model.backend.library.entry(
            b"TRITONBACKEND_ModelInstanceInitialize"
        )
        cdef TRITONSERVER_Error *error = NULL
        if initialize != NULL:
            with nogil:
                error = initialize(self.c)
        return taken_error(error)

    def is_ready(self):
        """What the backend says; its reason is for the verbose log."""
        cdef TRITONBACKEND_ModelInstance *c
        cdef TRITONSERVER_Error *error
        with self.ready:
            c = self.c
            if self.ready_function == NULL or self.ending or c == NULL:
                return True
            self.asked += 1
        # It is not finalised meanwhile.
        with nogil:
            error = self.ready_function(c)
        try:
            problem = taken_error(error)
        finally:
            self._returned()
        if problem is not None:
            log.debug("instance '%s' is not ready: %s", self.name, problem.message)
        return problem is None

    cdef int _returned(self) except -1:
        cdef TRITONBACKEND_ModelInstance *left = NULL
        with self.ready:
            self.asked -= 1
            if self.asked == 0:
                left, self.left = self.left, NULL
            self.ready.notify_all()
        if left != NULL:
            self._finalise(left)
            self.model.let_go()
        return 0

    cdef int submit(self, ta_batch *batch) noexcept nogil:
        cdef TRITONSERVER_Error *error
        cdef ta_execution *execution = self.side.begin(self.c, batch, _inputs_of(batch))
        if execution == NULL:
            ta_batch_fail(batch, TA_CODE_INTERNAL, "no memory for the requests of a batch")
            return 1
        _fill(execution, batch, self.c.model)
        if self.c.model.decoupled or (self.prompt < _PROMPT_TRUST and not self.c.model.has_states):
            go_live(execution)
        if self.turn is not None:
            pthread_mutex_lock(&(<Turn>self.turn).mutex)
        note_running(<void *>self)
        self.c.executing = 1
        error = self.execute_function(self.c, execution.handles, execution.n_requests)
        self.c.executing = 0
        note_running(NULL)
        if self.turn is not None:
            pthread_mutex_unlock(&(<Turn>self.turn).mutex)
        self.side.end(execution, error)
        if self.c.waited_ns > _PROMPT_NS:
            self.prompt = -1
        elif 0 <= self.prompt < _PROMPT_TRUST:
            self.prompt += 1
        return 1

    def close(self):
        cdef TRITONBACKEND_ModelInstance *c
        cdef bint in_time
        with self.ready:
            c = self.c
            self.c = NULL
            self.ending = True
            in_time = c == NULL or self.ready.wait_for(self._is_quiet, READY_END_S)
            if not in_time:
                self.left = c
                self.model.hold()
        if not in_time:
            log.error("instance '%s' is finalised when its TRITONBACKEND_ModelInstanceReady comes back, which it has "
                      "not done for %g s", self.name, READY_END_S)
        elif c != NULL:
            self._finalise(c)

    def _is_quiet(self):
        return self.asked == 0

    cdef int _finalise(self, TRITONBACKEND_ModelInstance *c) except -1:
        cdef TRITONSERVER_Error *error = NULL
        if self.asker is not None and self in (<Asker>self.asker).instances:
            (<Asker>self.asker).instances.remove(self)
        if self.finalize_function != NULL:
            with nogil:
                error = self.finalize_function(c)
            problem = taken_error(error)
            if problem is not None:
                log.error("TRITONBACKEND_ModelInstanceFinalize of '%s' failed: %s", self.name, problem.message)
        self.side.instance_free(c)
        return 0


cdef unsigned int _inputs_of(const ta_batch *batch) noexcept nogil:
    cdef unsigned int count = 0
    cdef int i
    for i in range(batch.n_inputs):
        count += batch.inputs[i].wanted != 0
    return count


cdef void _fill(ta_execution *execution, const ta_batch *batch, const TRITONBACKEND_Model *model) noexcept nogil:
    cdef void *requests = <void *>(<Batch>batch.owner).requests
    cdef TRITONBACKEND_Request *request
    cdef int64_t row = 0
    cdef int r, i, place
    for r in range(batch.n_requests):
        request = &execution.requests[r]
        request.inferred = _item(requests, r)
        request.rows = (<InferRequest>request.inferred).rows
        request.wanted = (<InferRequest>request.inferred).wanted
        request.row = row
        row += request.rows
        place = 0
        for i in range(batch.n_inputs):
            if batch.inputs[i].wanted:
                _fill_input(&request.inputs[place], &batch.inputs[i], &batch.inputs[i].segments[r], &model.inputs[i])
                if model.batching and model.inputs[i].reshaped:
                    request.inputs[place].dims[0] = request.rows
                place += 1


cdef void _fill_input(TRITONBACKEND_Input *input, const ta_tensor *tensor, const ta_segment *segment,
                      const ta_spec *spec) noexcept nogil:
    input.magic = TA_MAGIC_INPUT
    input.name = spec.name
    input.datatype = tensor.datatype
    input.data = segment.data
    input.nbytes = segment.nbytes
    input.memory_type = segment.memory_type
    input.device_id = segment.device_id
    if not spec.reshaped:
        input.rank = segment.rank
        memcpy(input.dims, segment.dims, segment.rank * sizeof(int64_t))
        return
    # All requests of a batch are alike for the engine, but for their rows.
    input.rank = tensor.rank
    memcpy(input.dims, tensor.dims, tensor.rank * sizeof(int64_t))
