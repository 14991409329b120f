"""Loads libraries of the TRITONBACKEND API, and calls what they implement for backends and models. Blocking."""

cimport cython

from triton_async.backends.capi.asking cimport Asker
from triton_async.backends.capi.calls cimport side_table, taken_error
from triton_async.backends.capi.objects cimport (
    TRITONBACKEND_EXECUTION_DEVICE_BLOCKING,
    TRITONBACKEND_Model,
    TRITONSERVER_Error,
    ta_preferred_group,
    ta_spec,
)
from triton_async.infer.signature cimport ModelSignature, TensorSpec

import json
import logging
import os
from pathlib import Path

from triton_async.backends.capi.imports import minds_threads
from triton_async.errors import InvalidArg, NotFound

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *path, int mode)
    void *dlsym(void *handle, const char *name)
    char *dlerror()
    enum: RTLD_NOW
    enum: RTLD_LOCAL

cdef extern from "<string.h>" nogil:
    char *strdup(const char *text)

ctypedef TRITONSERVER_Error *(*of_attributes_t)(void *backend, void *attributes) noexcept nogil

log = logging.getLogger("triton_async.native")

EXECUTE = "TRITONBACKEND_ModelInstanceExecute"


@cython.final
cdef class Library:
    """The shared library at `path`. InvalidArg, with the loader's reason, when it cannot be loaded."""

    def __init__(self, path):
        cdef bytes name = os.fsencode(path)
        cdef const char *c_name = name
        cdef const char *reason = NULL
        self.file = os.path.basename(path)
        self.threads = minds_threads(Path(path))
        side_table()  # what the library asks for is there before it
        with nogil:
            self.handle = dlopen(c_name, RTLD_NOW | RTLD_LOCAL)
            if self.handle == NULL:
                reason = dlerror()
        if self.handle == NULL:
            text = "" if reason == NULL else (<bytes>reason).decode("utf-8", "replace")
            log.error("unable to load shared library %s: %s", path, text)
            # Folders of the server are nobody's business.
            raise InvalidArg(f"unable to load shared library: {text.replace(os.path.dirname(path) + os.sep, '')}")

    cdef void *entry(self, bytes name) noexcept:
        return dlsym(self.handle, name)


# For a call that ends something: its error is for the log.
cdef int _log_error(TRITONSERVER_Error *error, str what) except -1:
    problem = taken_error(error)
    if problem is not None:
        log.error("%s failed: %s", what, problem.message)
    return 0


@cython.final
cdef class BackendHandle:
    """The backend of a library. `location`: its folder; `config`: of the backend, as JSON; `memory`: has `allocate`
    and `free` for what is not in ordinary memory. ServerError when it is no backend, or does not want to be one."""

    def __init__(self, str name, Library library, str location, str config, memory):
        cdef bytes c_name = name.encode()
        cdef bytes c_location = os.fsencode(location)
        cdef bytes c_config = config.encode()
        cdef of_backend_t initialize = <of_backend_t>library.entry(b"TRITONBACKEND_Initialize")
        cdef TRITONSERVER_Error *error = NULL
        self.name = name
        self.library = library
        self.memory = memory
        self.groups = ()
        self.side = side_table()
        if library.entry(EXECUTE.encode()) == NULL:
            raise NotFound(f"unable to find required entrypoint '{EXECUTE}' in backend library '{library.file}'")
        self.c = self.side.backend_new(c_name, c_location, c_config)
        if self.c == NULL:
            raise MemoryError
        self.c.owner = <void *>self
        if initialize != NULL:
            self.c.initialising = 1
            with nogil:
                error = initialize(self.c)
            self.c.initialising = 0
        problem = taken_error(error)
        if problem is not None:
            self.close()
            raise problem
        self.device_blocking = self.c.policy == TRITONBACKEND_EXECUTION_DEVICE_BLOCKING
        self._read_attributes()

    def _read_attributes(self):
        cdef of_attributes_t get = <of_attributes_t>self.library.entry(b"TRITONBACKEND_GetBackendAttribute")
        cdef TRITONSERVER_Error *error
        cdef ta_preferred_group *group
        if get == NULL:
            return
        with nogil:
            error = get(self.c, &self.c.attributes)
        problem = taken_error(error)
        if problem is not None:
            log.warning("backend '%s' gives no attributes: %s", self.name, problem.message)
            return
        self.parallel_loading = self.c.attributes.parallel_loading
        found = []
        for i in range(self.c.attributes.n_groups):
            group = &self.c.attributes.groups[i]
            gpus = None if group.devices == NULL else tuple([group.devices[j] for j in range(group.n_devices)])
            found.append((group.kind, group.count, gpus))
        self.groups = tuple(found)

    def allocate(self, int memory_type, int device_id, size):
        """Address of memory for the backend. ServerError: Unsupported where there is none of that kind."""
        return self.memory.allocate(memory_type, device_id, size)

    def free(self, address):
        """Gives memory of `allocate` back."""
        self.memory.free(address)

    def close(self):
        """Finalises the backend, once. The library stays loaded, and so does all of it while it has models: the process
        ends, and a model that never gave its requests back is in use."""
        cdef of_backend_t finalize = <of_backend_t>self.library.entry(b"TRITONBACKEND_Finalize")
        cdef TRITONSERVER_Error *error = NULL
        if self.c == NULL:
            return
        if self.models:
            log.warning("backend '%s' is not finalised: %d models are in use", self.name, self.models)
            return
        if finalize != NULL:
            with nogil:
                error = finalize(self.c)
            _log_error(error, f"TRITONBACKEND_Finalize of backend '{self.name}'")
        self.side.backend_free(self.c)
        self.c = NULL


@cython.final
cdef class ModelHandle:
    """A model version. `location`: the model's folder; `config`: a dict, as `ModelConfig` has it; `on_config`: what a
    config becomes that the backend sets, a dict for a dict, in the middle of ModelInitialize. `inference`: the
    InferenceService that it asks other models by, or None."""

    def __init__(self, BackendHandle backend, str name, version, str location, config, bint auto_complete, on_config,
                 inference=None):
        cdef bytes c_name = name.encode()
        cdef bytes c_location = os.fsencode(location)
        cdef bytes c_config = json.dumps(config).encode()
        self.backend = backend
        self.name = name
        self.memory = {}
        self.on_config = on_config
        self.side = side_table()
        self.c = self.side.model_new(backend.c, c_name, version, c_location, c_config, auto_complete)
        if self.c == NULL:
            raise MemoryError
        self.c.owner = <void *>self
        backend.models += 1
        if inference is not None:
            self.asker = Asker(inference)
            self.c.server = (<Asker>self.asker).c

    def initialise(self):
        """Calls ModelInitialize. ServerError with what it says; the model is to be closed then, too."""
        cdef of_model_t initialize = <of_model_t>self.backend.library.entry(b"TRITONBACKEND_ModelInitialize")
        cdef TRITONSERVER_Error *error = NULL
        self.initialised = True
        if initialize != NULL:
            self.c.initialising = 1
            with nogil:
                error = initialize(self.c)
            self.c.initialising = 0
        problem = taken_error(error)
        if problem is not None:
            raise problem

    def take_config(self, bytes text):
        """The backend sets the config. InvalidArg when it is none."""
        try:
            config = json.loads(text)
        except ValueError:
            config = None
        if not isinstance(config, dict):
            raise InvalidArg(f"the configuration that backend '{self.backend.name}' sets for model '{self.name}' is "
                             "no JSON object")
        self.completed = self.on_config(config)
        self.set_config(self.completed)

    def set_config(self, config):
        """What ModelConfig answers from now on."""
        cdef bytes text = json.dumps(config).encode()
        if self.side.model_set_config(self.c, text) != 0:
            raise MemoryError

    def set_signature(self, ModelSignature signature, states, bint iterative):
        """What requests are made of. `states`: names of the outputs that are states of sequences."""
        fill_specs(self.c, signature, states)
        self.c.iterative = iterative
        self.c.has_states = bool(states)
        if self.asker is not None:
            (<Asker>self.asker).decoupled = signature.decoupled

    def note_memory(self, instance, places):
        """What the model (`instance` 0) or an instance says that it takes. Any thread."""
        self.memory[instance] = tuple(places)

    def close(self):
        """Finalises the model, once; where one of its instances is yet to be finalised, behind that."""
        self.closed = True
        if self.held == 0:
            self._finalise()

    cdef int hold(self) except -1:
        self.held += 1
        return 0

    cdef int let_go(self) except -1:
        self.held -= 1
        return self._finalise() if self.closed and self.held == 0 else 0

    cdef int _finalise(self) except -1:
        cdef of_model_t finalize = <of_model_t>self.backend.library.entry(b"TRITONBACKEND_ModelFinalize")
        cdef TRITONSERVER_Error *error = NULL
        cdef TRITONBACKEND_Model *c = self.c
        if c == NULL:
            return 0
        # None of its callbacks comes behind its end.
        if self.asker is not None:
            self.asker.settle()
        if finalize != NULL and self.initialised:
            with nogil:
                error = finalize(c)
            _log_error(error, f"TRITONBACKEND_ModelFinalize of model '{self.name}'")
        if self.asker is not None:
            self.asker.close()
        self.side.model_free(c)
        self.c = NULL
        self.backend.models -= 1
        return 0


cdef int fill_specs(TRITONBACKEND_Model *c, ModelSignature signature, states) except -1:
    cdef TensorSpec spec
    if side_table().model_set_specs(c, len(signature.inputs), len(signature.outputs)) != 0:
        raise MemoryError
    for i, spec in enumerate(signature.inputs):
        _fill_spec(&c.inputs[<int>i], spec, False)
    for i, spec in enumerate(signature.outputs):
        _fill_spec(&c.outputs[<int>i], spec, spec.injected and spec.name in states)
    c.batching = signature.max_batch_size > 0
    c.decoupled = signature.decoupled
    return 0


cdef int _fill_spec(ta_spec *c, TensorSpec spec, bint state) except -1:
    cdef bytes name = spec.name.encode()
    c.name = strdup(name)
    if c.name == NULL:
        raise MemoryError
    c.datatype = spec.datatype
    c.reshaped = spec.reshape is not None
    c.state = state
    return 0
