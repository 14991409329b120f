"""Ensembles (Triton's ensemble scheduler): tensors go from step to step as they come, on the loop, without copies."""

cimport cython
from libc.stdint cimport int64_t

from triton_async.core.cache cimport ResponseCache
from triton_async.core.dataflow cimport Dataflow, Step
from triton_async.core.ensemble_run cimport Run
from triton_async.core.reactor cimport Reactor
from triton_async.core.servable cimport Servable
from triton_async.infer.request cimport FLAG_SEQUENCE_START, REQUEST_NEW, REQUEST_RUNNING, InferRequest
from triton_async.infer.response cimport ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.slab cimport SlabPool

from triton_async.defines import ENSEMBLE_AHEAD
from triton_async.errors import NotFound

cdef int64_t AHEAD = ENSEMBLE_AHEAD


@cython.final
cdef class Ensemble(Servable):
    """A READY ensemble. `serving`: ensembles.Serving, what it finds the models of its steps by."""

    def __init__(self, Reactor reactor, ModelSignature signature, config, Dataflow flow, serving,
                 SlabPool input_pool=None, ResponseCache cache=None, bytes identity=b""):
        cdef int64_t limit = config.ensemble.max_inflight_requests
        Servable.__init__(self, reactor, signature, config, input_pool, False, cache, identity)
        self.flow = flow
        self.latest = serving.latest
        self.versions = serving.versions
        self.trace_step = serving.trace_step
        self.ahead = min(limit, AHEAD) if limit else AHEAD

    @property
    def available(self):
        """Whether all its steps can run."""
        cdef Step step
        for step in self.flow.steps:
            target = self._target(step)
            if target is None or not target.available:
                return False
        return True

    def asked_for_readiness(self):
        cdef Step step
        found = {}
        for step in self.flow.steps:
            target = self._target(step)
            if target is not None:
                found.update(dict.fromkeys(target.asked_for_readiness()))
        return list(found)

    def _target(self, Step step):
        if step.model_version == -1:
            return self.latest.get(step.key)
        return self.versions.get((step.key, step.model_version))

    def goes_on_with(self, InferRequest request):
        # The models of its steps know which sequences have begun.
        return bool(request.sequence_id) and not request.flags & FLAG_SEQUENCE_START

    cdef Servable find(self, Step step):
        target = self._target(step)
        if target is None:
            raise NotFound(f"in ensemble '{self.signature.model_name}', Request for unknown model: "
                           f"'{step.model_name}' has no available versions")
        return <Servable>target

    cdef int submit(self, InferRequest request, ResponseSink sink, int64_t now_ns) except -1:
        cdef Run run = None
        assert request.state == REQUEST_NEW
        self._check_open()
        self.signature.validate(request)
        if self.cache is not None:
            if self.cache.remote:
                # The steps are held from now on: what leaves while the cache is asked still serves this request.
                run = self._prepare(request)
            try:
                if self._is_cached(request, sink, now_ns, run):
                    return 0
            except BaseException:
                self._drop_prepared(run)
                raise
        if run is None:
            run = self._prepare(request)
        self._accept(request, sink)
        return self._start(request, run, now_ns)

    cdef int _start(self, InferRequest request, Run run, int64_t now_ns) except -1:
        request.state = REQUEST_RUNNING
        request.queue_start_ns = now_ns
        return run.start(now_ns)

    cdef Run _prepare(self, InferRequest request):
        cdef Step step
        cdef Servable target
        cdef Run run = Run.__new__(Run)
        run.ensemble = self
        run.flow = self.flow
        run.ahead = self.ahead
        run.trace_step = self.trace_step
        run.request = request
        run.selection = self.flow.select(request)
        run.targets = [None] * len(self.flow.steps)
        for step in run.selection.steps:
            run.targets[step.number] = self.find(step)
        for target in run.targets:
            if target is not None:
                target.hold()
        return run

    cdef int _begin(self, InferRequest request, object prepared, int64_t now_ns) except -1:
        return self._start(request, <Run>prepared, now_ns)

    cdef int _drop_prepared(self, object prepared) except -1:
        return 0 if prepared is None else (<Run>prepared).release_targets()

    cdef int cancel(self, InferRequest request, int64_t now_ns) except -1:
        if request.model is not self or request.cancelled:
            return 0
        # The calls hear of it, and have the run given up.
        self._forsake(request)
        return self._cancel_asked(request, now_ns) if request.state == REQUEST_NEW else 0
