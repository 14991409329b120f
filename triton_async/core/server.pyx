"""The inference server without front-ends: looks models up, takes requests, answers questions. Loop thread."""

import asyncio
import logging

from triton_async.core.servable cimport Servable
from triton_async.core.trace cimport trace_queued
from triton_async.core.waits cimport Asking
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.trace cimport Trace

from triton_async import logs
from triton_async.cgroup import memory_limit
from triton_async.core.describe import model_metadata
from triton_async.core.ensembles import Serving
from triton_async.core.metrics import Metrics
from triton_async.core.model_lock import current
from triton_async.core.readiness import Readiness
from triton_async.core.repository import ModelRepository
from triton_async.core.stuck import give_up
from triton_async.core.tracing import Tracing
from triton_async.defines import IN_FLIGHT_SHARE, STATISTICS_PER_TURN, UNSENT_SHARE
from triton_async.errors import InternalError, InvalidArg, Overloaded, ServerError, Unavailable
from triton_async.version import TRITON_VERSION

EXTENSIONS = (
    "classification", "sequence", "model_repository", "model_repository(unload_dependents)", "schedule_policy",
    "model_configuration", "system_shared_memory", "cuda_shared_memory", "binary_tensor_data", "parameters",
    "statistics", "trace", "logging", "generate",
)

log = logging.getLogger("triton_async.core")

# In Triton's words.
cdef str STOPPING = "Server is stopping, scheduler for model has stopped accepting new inference requests"
cdef str OVERLOADED = "too many bytes of requests are in flight, try again later"


#   STARTING --start--> LOADING --models loaded--> SERVING --drain--> DRAINING --stop_accepting--> STOPPING
#      ^                   |                                                                          |
#      +-- a repository is gone                           STOPPED <--stop-- FINISHING <--finish_sequences
# `stop_accepting` and `stop` may come in any state, and pass over those between.
cdef enum ServerState:
    SERVER_STARTING = 0
    SERVER_LOADING = 1     # live; models are being loaded, and none is asked before all are
    SERVER_SERVING = 2
    SERVER_DRAINING = 3    # not ready, so that load balancers turn away; all else is as before
    SERVER_STOPPING = 4    # neither ready nor live; requests that come over open connections are still served
    SERVER_FINISHING = 5   # the same, of sequences that have begun; nothing else begins
    SERVER_STOPPED = 6     # no new requests; those in flight finish


cdef int _check_loaded(int state) except -1:
    if state < SERVER_SERVING:
        raise Unavailable("Server not ready")
    return 0


# Models that are loaded at the start may ask for others.
cdef int _check_control(int state) except -1:
    return 0 if state == SERVER_LOADING and current() is not None else _check_loaded(state)


# A request that is refused has no trace in Triton's files; its span, which others may be below, ends.
cdef int _submit_traced(Servable model, InferRequest request, ResponseSink sink, int64_t now_ns) except -1:
    cdef Trace trace = request.trace
    try:
        return model.submit(request, sink, now_ns)
    except BaseException:
        if trace.span is None:
            trace.done = None
        raise


cdef class FutureSink(ResponseSink):
    """Gives the response to a coroutine."""

    cdef object future

    def __init__(self, future):
        self.future = future

    cdef int deliver(self, InferResponse response) except -1:
        if not self.future.done():
            self.future.set_result(response)
        return 0

    cdef int released(self, object request) except -1:
        return 0


def _end_of(future):
    """An awaitable of a concurrent future, which goes on when its waiter is cancelled."""
    inner = asyncio.wrap_future(future)
    # Nobody may be left to hear of a failure; the log has the reason.
    inner.add_done_callback(_heard)
    return asyncio.shield(inner)


def _heard(future):
    if not future.cancelled():
        future.exception()


cdef class InferenceServer:
    """One server. `host`: lifecycle.Host, what models are made on; its loop is the caller's. `recorder`: where traces
    go (tracing.TraceRecorder); None: nothing can be traced."""

    def __init__(self, settings, host, recorder=None):
        self.id = settings.id
        self.version = TRITON_VERSION
        self.settings = settings
        self.host = host
        self.pool = self.large_pool = host.pool
        self.regions = host.regions
        self.extensions = tuple(
            [name for name in EXTENSIONS if not name.endswith("_shared_memory") or self.regions.enabled]
        )
        self.loop = host.loop
        self.reactor = host.reactor
        self.max_held_nbytes = settings.max_in_flight_byte_size or memory_limit() // IN_FLIGHT_SHARE
        self.share_nbytes = memory_limit() // UNSENT_SHARE
        self.latest = {}
        self.versions = {}
        self.served = {}
        self.input_pools = {}
        self.readiness_waiters = set()
        serving = Serving(self.latest, self.versions, self.trace_step)
        self.repository = ModelRepository(settings, host, self._on_model_changed, serving)
        self.readiness = Readiness(host.loop)
        self.metrics = Metrics(settings, self.repository, host)
        self.traces = Tracing(settings.trace, recorder, self._on_traces_changed)
        self.traces.announce()

    # -- life --------------------------------------------------------------------------------------

    async def start(self):
        """Loads the models; whether all that were asked for are READY. ServerError when a repository is gone."""
        self.state = SERVER_LOADING
        try:
            complete = await self.repository.load_at_start()
        except ServerError:
            self.state = SERVER_STARTING
            raise
        self.state = SERVER_SERVING
        self._wake_readiness()
        return complete

    def drain(self):
        """Not ready any more, so that load balancers turn away; all else is as before."""
        if self.state < SERVER_DRAINING:
            self.state = SERVER_DRAINING
            self._wake_readiness()

    def stop_accepting(self):
        """Not ready any more, so that load balancers turn away; front-ends close next."""
        if self.state < SERVER_STOPPING:
            self.state = SERVER_STOPPING
            self._wake_readiness()

    def finish_sequences(self):
        """Requests are taken of sequences that have begun, and no others."""
        if self.state < SERVER_FINISHING:
            self.state = SERVER_FINISHING

    def sequences_left(self):
        """How many sequences have begun and not ended."""
        return sum([model.sequences_left() for model in self.repository.held_models()])

    def interrupt(self):
        """Asks the engines to give up what they run: its requests fail soon, if the engines can."""
        for model in self.repository.held_models():
            model.interrupt()
            give_up(model, "the server ends, and it had not ended what it executed")

    async def stop(self):
        """Finishes what is in flight and frees every model."""
        self.stop_accepting()
        self.state = SERVER_STOPPED
        await self.repository.stop()
        for future in self.regions.stop():
            try:
                await _end_of(future)
            except ServerError:  # the registry has logged it, and the process ends anyway
                continue

    # Enters what serves of a model now in place of what did; with namespaces what its name means, too.
    def _on_model_changed(self, entry):
        cdef str name = entry.name
        self._enter(entry.key, self.repository.ready_versions(entry.key))
        if entry.key != name:
            meant = self.repository.namespaces.meant(name)
            self._enter(name, self.repository.ready_versions(meant[0]) if len(meant) == 1 else [])
        self.large_pool = next(iter(self.input_pools.values()), self.pool)
        self._wake_readiness()

    def _enter(self, str name, list serving):
        self.latest.pop(name, None)
        for version in self.served.pop(name, ()):
            del self.versions[name, version]
            self.input_pools.pop((name, version), None)
        for version, loaded in serving:
            self.latest[name] = self.versions[name, version] = loaded.model
            if loaded.model.input_pool is not None:
                self.input_pools[name, version] = loaded.model.input_pool
        if serving:
            self.served[name] = tuple([version for version, _ in serving])

    def _on_traces_changed(self, bint active):
        self.tracing = self.traces if active else None
        self.reads_context = active and self.traces.reads_context

    def _wake_readiness(self):
        waiters, self.readiness_waiters = self.readiness_waiters, set()
        for future in waiters:
            if not future.done():
                future.set_result(None)

    async def readiness_change(self):
        """Returns after anything happened that may have changed readiness."""
        future = self.loop.create_future()
        self.readiness_waiters.add(future)
        try:
            await future
        finally:
            self.readiness_waiters.discard(future)

    # -- requests ----------------------------------------------------------------------------------

    cdef Servable find(self, str name, int64_t version):
        model = self.latest.get(name) if version == -1 else self.versions.get((name, version))
        if model is None:
            _check_loaded(self.state)
            raise self.repository.explain(name, version)
        return <Servable>model

    cdef Servable at_once(self, str name, int64_t version):
        if self.state == SERVER_STARTING or self.state >= SERVER_FINISHING or self.tracing is not None:
            return None
        if self.reactor.held_nbytes > self.max_held_nbytes:
            return None
        return self.latest.get(name) if version == -1 else self.versions.get((name, version))

    cdef int submit_request(self, InferRequest request, ResponseSink sink, Servable model=None) except -1:
        cdef int64_t now_ns = self.reactor.clock.now_ns()
        if self.state < SERVER_SERVING or self.state == SERVER_STOPPED:
            raise Unavailable("Server not ready")
        if self.reactor.held_nbytes > self.max_held_nbytes:
            raise Overloaded(OVERLOADED)
        if request.received_ns == 0:
            request.received_ns = now_ns
        if model is None or model.draining:
            model = self.find(request.model_name, request.model_version)
        # What models ask for the sake of a request is a part of it.
        if self.state == SERVER_FINISHING and not isinstance(sink, Asking) and not model.goes_on_with(request):
            raise Unavailable(f"{request.log_prefix()}{STOPPING}")
        if request.trace is not None:
            trace_queued(request)
        elif self.tracing is not None and (request.trace_parent is not None or not isinstance(sink, Asking)):
            # What a model asks is traced with what it is asked for, and is no client's request to be counted.
            self._trace(request, model)
        if request.trace is not None:
            return _submit_traced(model, request, sink, now_ns)
        return model.submit(request, sink, now_ns)

    # What goes wrong with a trace is no business of the request.
    cdef int _trace(self, InferRequest request, Servable model) except -1:
        cdef ModelSignature signature = model.signature
        try:
            request.trace = self.traces.begin(request, signature.model_name, signature.model_version)
            if request.trace is not None:
                trace_queued(request)
        except Exception:
            log.exception("a request of model '%s' could not be traced", signature.model_name)
        return 0

    def trace_step(self, InferRequest request, Servable model):
        """Has the request of an ensemble's step traced, for whose sake `request.trace_parent` is."""
        if self.tracing is not None:
            self._trace(request, model)

    cdef int hold(self, int64_t nbytes) except -1:
        if self.reactor.held_nbytes > self.max_held_nbytes:
            raise Overloaded(OVERLOADED)
        self.reactor.held_nbytes += nbytes
        return 0

    cdef int release(self, int64_t nbytes) except -1:
        self.reactor.held_nbytes -= nbytes
        return 0

    cdef int cancel_request(self, InferRequest request) except -1:
        if request.model is not None:
            (<Servable>request.model).cancel(request, self.reactor.clock.now_ns())
        return 0

    def submit(self, InferRequest request, ResponseSink sink):
        """Python form of `submit_request`."""
        self.submit_request(request, sink)

    def cancel(self, InferRequest request):
        """The client is gone: nothing is delivered for the request any more."""
        self.cancel_request(request)

    async def infer(self, InferRequest request):
        """InferResponse of the request. ServerError when it is refused or fails. Cancelling cancels the request."""
        cdef FutureSink sink = FutureSink(self.loop.create_future())
        cdef InferResponse response
        self.submit_request(request, sink)
        try:
            response = await sink.future
        except asyncio.CancelledError:
            self.cancel_request(request)
            raise
        if response.error is not None:
            raise response.error
        return response

    # -- questions ---------------------------------------------------------------------------------

    def live(self):
        """Whether the server runs, even if it still loads models. Unavailable `Server exiting` while it stops."""
        if self.state >= SERVER_STOPPING:
            raise Unavailable("Server exiting")
        return self.state != SERVER_STARTING

    def ready(self):
        """Whether requests are welcome: with --strict-readiness every model must be READY, and able to run."""
        if self.state >= SERVER_DRAINING:
            raise Unavailable("Server exiting")
        if self.state != SERVER_SERVING:
            return False
        return self.repository.all_ready() if self.settings.strict_readiness else True

    def model_ready(self, str name, int64_t version=-1):
        """Whether a version (-1: any) is READY, and an instance of it can run. ServerError of the lookup for a model or
        version that is unknown."""
        if version == -1 and name in self.latest:
            return (<Servable>self.latest[name]).available
        if (name, version) in self.versions:
            return (<Servable>self.versions[name, version]).available
        if not self.repository.knows(name, version):
            raise self.repository.explain(name, version)
        return False

    @property
    def turn(self):
        """Turns of its loop (core.turn)."""
        return self.reactor.turn

    @property
    def serving(self):
        """Whether models may be loaded and unloaded."""
        return self.state == SERVER_SERVING or self.state == SERVER_DRAINING

    @property
    def phase(self):
        """Its ServerState, for processes that answer in its name."""
        return self.state

    @property
    def stopping(self):
        """Whether the server is on its way out."""
        return self.state >= SERVER_STOPPING

    def serves(self, str name, int64_t version=-1):
        """Whether a version (-1: any) takes requests. Any thread, with the GIL."""
        return name in self.latest if version == -1 else (name, version) in self.versions

    async def is_ready(self):
        """`ready`, and so say all models that are asked for it."""
        if not self.ready():
            return False
        if not self.settings.strict_readiness:
            return True
        asked = []
        for _, _, loaded in self.repository.ready_models():
            asked += loaded.model.asked_for_readiness()
        return not asked or await self.readiness.of(asked)

    def asks_models(self):
        """Whether `is_ready` may change without a `readiness_change`: a model is asked that says so itself."""
        return self.settings.strict_readiness and any(
            [loaded.model.asked_for_readiness() for _, _, loaded in self.repository.ready_models()]
        )

    async def model_is_ready(self, str name, int64_t version=-1):
        """`model_ready`, and so it says itself if it is asked for it. ServerError of the lookup."""
        if not self.model_ready(name, version):
            return False
        asked = self.find(name, version).asked_for_readiness()
        return not asked or await self.readiness.of(asked)

    def signature(self, str name, int64_t version=-1):
        """ModelSignature of the version that would serve. ServerError of the lookup."""
        return self.find(name, version).signature

    def metadata(self):
        return {"name": self.id, "version": self.version, "extensions": list(self.extensions)}

    def model_metadata(self, str name, int64_t version=-1):
        """v2 model metadata of a version; `versions` lists every READY one unless a version is asked for."""
        cdef Servable model = self.find(name, version)
        served = [version] if version != -1 else list(self.served[name])
        return model_metadata(model.signature, model.config, served)

    def model_config(self, str name, int64_t version=-1):
        """The completed `inference.ModelConfig` message; not to be changed."""
        return self.find(name, version).config.proto

    def model_config_json(self, str name, int64_t version=-1):
        """The completed config in Triton's JSON form."""
        return self.find(name, version).config.json()

    def statistics(self, str name="", int64_t version=-1):
        """`model_stats` entries of the READY versions, by model name. InvalidArg for what is unknown."""
        self.reactor.drain(False)
        if name and name not in self.latest:
            raise InvalidArg(f"requested model '{name}' is not available")
        if name and version != -1 and (name, version) not in self.versions:
            raise InvalidArg(f"requested model version is not available for model '{name}'")
        if name:
            return self._statistics_of(self.repository.namespaces.resolve(name), version)
        return [entry for key in self._by_name() for entry in self._statistics_of(key, -1)]

    async def model_statistics(self, str name, int64_t version=-1):
        """`statistics` of one model, as front-ends ask for them."""
        return self.statistics(name, version)

    async def all_statistics(self):
        """`statistics` of all models, some in each turn of the loop: others are served in between."""
        self.reactor.drain(False)
        entries = []
        for index, key in enumerate(self._by_name(), 1):
            entries += self._statistics_of(key, -1)
            if index % STATISTICS_PER_TURN == 0:
                await asyncio.sleep(0)
        return entries

    # Keys of all models.
    def _by_name(self):
        return sorted(self.repository.models, key=self.repository.namespaces.by_name)

    def _statistics_of(self, str key, int64_t version):
        return [
            {
                **loaded.model.statistics.as_dict(self.repository.models[key].name, str(number)),
                "memory_usage": [usage.as_dict() for usage in loaded.memory],
            }
            for number, loaded in self.repository.ready_versions(key)
            if version in (-1, number)
        ]

    # -- model control -----------------------------------------------------------------------------

    async def repository_index(self, bint ready_only=False):
        """Rows {"name", "version", "state", "reason"} of the repository index; absent keys are unknown. InternalError
        when a repository cannot be read."""
        there = None if ready_only else await self.repository.scan()
        return self.repository.index(ready_only, there)

    async def load_model(self, str name, parameters=None):
        """Loads or reloads a model and waits for it. ServerError when that is not allowed or fails."""
        _check_control(self.state)
        await self.repository.load_by_request(name, parameters)

    async def unload_model(self, str name, bint unload_dependents=False):
        """Takes a model out of service; it is freed when its requests are done. ServerError when that is not allowed.
        """
        _check_control(self.state)
        await self.repository.unload_by_request(name, unload_dependents)

    # -- traces ------------------------------------------------------------------------------------

    def trace_settings(self, str name=""):
        """The trace settings of a model, or of the server, by Triton's names. InvalidArg for an unknown model."""
        self._check_traced(name)
        return self.traces.settings(name)

    def change_trace_settings(self, str name, changes):
        """Changes them: see Tracing.update. InvalidArg."""
        self._check_traced(name)
        self.traces.update(name, changes)

    async def ask_trace_settings(self, str name=""):
        """`trace_settings`, as front-ends ask for them."""
        return self.trace_settings(name)

    async def set_trace_settings(self, str name, changes):
        """`change_trace_settings`, as front-ends ask for it; the settings behind it."""
        self.change_trace_settings(name, changes)
        return self.trace_settings(name)

    async def log_settings(self):
        """The settings of the log in force, by Triton's names."""
        return logs.settings()

    async def change_log_settings(self, changes):
        """Changes them, checked ones; the settings behind that."""
        logs.update(changes)
        return logs.settings()

    def close_traces(self):
        """Writes what was traced. Blocks: any thread, behind the last request."""
        self.traces.close()

    def _check_traced(self, str name):
        # Settings are kept by the name that a model has in its traces.
        if name and (name not in self.latest or self.repository.namespaces.is_key(name)):
            raise InvalidArg(f"Request for unknown model : {name}")

    # -- shared memory -----------------------------------------------------------------------------

    def region_status(self, str kind, str name=""):
        """Entries of the registered regions of a kind ("cuda", "system"), or of one. NotFound."""
        return self.regions.status(kind, name)

    async def ask_regions(self, str kind, str name=""):
        """`region_status`, as front-ends ask for it."""
        return self.region_status(kind, name)

    async def register_cuda_region(self, str name, bytes handle, device_id, nbytes):
        """Opens memory of another process for requests. ServerError. Goes on when the caller is cancelled."""
        await _end_of(self.regions.register_cuda(name, handle, device_id, nbytes))

    async def register_system_region(self, str name, str key, offset, nbytes):
        """Registers POSIX shared memory of another process. ServerError."""
        await _end_of(self.regions.register_system(name, key, offset, nbytes))

    async def unregister_regions(self, str kind, str name=""):
        """Takes one region, or all of a kind, out and closes what no request uses. ServerError when that fails."""
        failed = []
        problem = None
        for closed, future in self.regions.unregister(kind, name):
            try:
                await _end_of(future)
            except ServerError as error:
                failed.append(closed)
                problem = error
        if failed and name:
            raise problem
        if failed:
            shown = "".join([f"{closed} ," for closed in failed])
            raise InternalError(f"Failed to unregister the following {kind} shared memory regions: {shown}")

    async def metrics_parts(self):
        """Prometheus text exposition, as a list of bytes."""
        self.reactor.drain(False)
        return await self.metrics.render()

    async def made_metrics(self, str name):
        """The lines of the metric families of this name that models and libraries have made; "" where there are none.
        """
        return self.metrics.made(name)
