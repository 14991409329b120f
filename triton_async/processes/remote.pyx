"""The server as a front-end process has it. It knows the models by what the models' process says of them."""

import asyncio
import logging

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.core.servable cimport Servable
from triton_async.core.server cimport InferenceServer
from triton_async.datatypes cimport DT_INVALID
from triton_async.infer.request cimport AWAITS_FINAL, REQUEST_DONE, REQUEST_RUNNING, InferRequest, Origin
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.buffer cimport MEMORY_GPU
from triton_async.memory.regions cimport Region, RegionRegistry
from triton_async.processes.lane cimport ANSWER, CANCEL, LEFT, RELEASED, RESPONSE, TAKEN, TELL, Lane
from triton_async.processes.requests cimport write_request
from triton_async.processes.responses cimport FINAL, RELEASES, Answered, read_answered, read_response

from triton_async.backends.python.isolated.wire import WireError
from triton_async.core.entries import not_served
from triton_async.core.server import EXTENSIONS
from triton_async.defines import UNSENT_SHARE
from triton_async.cgroup import memory_limit
from triton_async.errors import InternalError, Unavailable
from triton_async.processes.calls import decoded, encoded, outcome
from triton_async.processes.descriptions import RemoteConfig, signature_of
from triton_async.version import TRITON_VERSION

log = logging.getLogger("triton_async.processes")

# Where no host byte lies; what is in regions is never looked at here.
cdef char *NOWHERE = <char *>4096


# In the place of a response that there is no memory for. None where nobody waits for it.
cdef InferResponse _no_memory(InferRequest request, int64_t version, bint final):
    cdef InferResponse response
    if request.cancelled:
        return None
    response = InferResponse(request, request.model_name, version, [], None, InternalError("no memory for a response"))
    response.final = final
    return response


# Keeps, for an Origin of this process, that of the models' process. __dealloc__ uses `link`.
@cython.no_gc_clear
cdef class _RemoteOrigin:
    cdef ModelsLane link
    cdef uint64_t number

    def left(self):
        self.link.origins_over.append((self.number, True))
        self.link.flush_soon()
        self.number = 0

    def __dealloc__(self):
        if self.number and self.link is not None:
            # On whatever thread; told with what comes next.
            self.link.origins_over.append((self.number, False))


cdef class ModelsLane(Lane):
    """See Lane. `on_told(dict)`: what the models' process tells; `on_over(problem)`: it has ended."""

    def __init__(self, loop, sock, rings, mine, theirs, own_fd, other_fd, on_told, on_over):
        Lane.__init__(self, loop, sock, rings, mine, theirs, own_fd, other_fd, front_end=True)
        self.requests = {}
        self.taken = {}
        self.calls = {}
        self.origins_over = []
        self.on_told = on_told
        self.on_over = on_over

    @property
    def in_flight(self):
        """Requests that the models' process has."""
        return len(self.requests)

    def on_end(self, problem):
        self.on_over(problem)

    # -- requests ----------------------------------------------------------------------------------

    cdef int submit(self, InferRequest request, RemoteServable model) except -1:
        cdef Writer message = self.fresh()
        cdef list lends = []
        cdef uint64_t number
        if self.closed:
            raise Unavailable("Server exiting")
        self.last_request += 1
        # Of the numbers of what is lent: so that one is enough for both.
        self.last_number += 1
        number = self.last_number
        try:
            write_request(message, self.spare, self, request, number, model.remote_number, self._origin(request),
                          model.signature, lends)
            if lends:
                self.lent[number] = lends
            self.send(message)
        except BaseException:
            self.lent.pop(number, None)
            message.size = 0
            raise
        request.arrival = number
        self.requests[number] = request
        return 0

    cdef uint64_t _origin(self, InferRequest request) except? 0:
        cdef Origin origin = request.origin
        cdef _RemoteOrigin one
        if origin is None:
            return 0
        for one in origin.kept:
            return one.number
        one = _RemoteOrigin.__new__(_RemoteOrigin)
        self.last_origin += 1
        one.link = self
        one.number = self.last_origin
        origin.kept.add(one)
        return one.number

    cdef int before_flush(self) except -1:
        cdef Writer message
        # What can not be said now, for want of memory, is said the next time.
        while self.taken:
            number, count = next(iter(self.taken.items()))
            message = self.fresh()
            message.u8(TAKEN)
            message.u64(number)
            message.u32(<uint32_t>count)
            self.send(message)
            del self.taken[number]
        while self.origins_over:
            number, left = self.origins_over[len(self.origins_over) - 1]
            message = self.fresh()
            message.u8(LEFT)
            message.u64(number)
            message.u8(left)
            self.send(message)
            self.origins_over.remove((number, left))
        return 0

    def cancel(self, uint64_t number):
        """Its client is gone."""
        cdef Writer message = self.fresh()
        message.u8(CANCEL)
        message.u64(number)
        self.send(message)

    # -- from the models' process --------------------------------------------------------------------

    cdef int receive(self, int kind, Cursor cursor) except -1:
        cdef InferRequest request
        cdef uint64_t number
        if kind == RESPONSE:
            return self._on_response(cursor)
        if kind == RELEASED:
            number = cursor.u64()
            request = self.requests.pop(number, None)
            if request is None:
                raise WireError("that a request is over which it has not")
            return (<RemoteServable>request.model).over(request)
        if kind == ANSWER:
            number = cursor.u64()
            future = self.calls.pop(number, None)
            if future is not None and not future.done():
                future.set_result(cursor.at[:cursor.end - cursor.at])
            return 0
        if kind == TELL:
            self.on_told(decoded(cursor.at[:cursor.end - cursor.at]))
            return 0
        raise WireError("a message of no known kind")

    # The request that a response is to.
    cdef InferRequest _answered(self, number, int flags):
        cdef InferRequest request
        request = <InferRequest>(self.requests.pop(number, None) if flags & RELEASES else self.requests.get(number))
        if request is None:
            raise WireError("a response to a request that it has not")
        if request.awaits & AWAITS_FINAL == 0 and not request.cancelled:
            raise WireError("a response behind the final one")
        return request

    # A request whose client has gone gets nothing any more, but what it gets is taken note of.
    cdef int _on_response(self, Cursor cursor) except -1:
        cdef Answered answered
        cdef InferRequest request
        cdef RemoteServable model
        cdef InferResponse response
        cdef uint64_t number
        cdef int flags
        read_answered(cursor, &answered)
        number = answered.request
        flags = answered.flags
        request = self._answered(number, flags)
        model = <RemoteServable>request.model
        try:
            response = read_response(cursor, self, &answered, None if request.cancelled else request, model.signature,
                                     self.server.pool)
        except MemoryError:
            response = _no_memory(request, answered.version, flags & FINAL != 0)
        return self._passed_on(request, model, response, number, flags)

    cdef int _passed_on(self, InferRequest request, RemoteServable model, InferResponse response, uint64_t number,
                        int flags) except -1:
        if response is not None:
            model._answer(request, response)
        if flags & RELEASES:
            model.over(request)
        elif flags & FINAL == 0:
            self._hold_window(request, number)
        return 0

    cdef int receive_no_more(self, const char *first, Py_ssize_t nbytes) except -1:
        cdef Answered answered
        cdef InferRequest request
        cdef int flags
        if first[0] != RESPONSE or nbytes < <Py_ssize_t>sizeof(Answered):
            raise MemoryError
        memcpy(&answered, first, sizeof(Answered))
        flags = answered.flags
        if answered.lent:
            self.held(answered.lent)  # and no more
        request = self._answered(answered.request, flags)
        return self._passed_on(request, <RemoteServable>request.model,
                               _no_memory(request, answered.version, flags & FINAL != 0), answered.request, flags)

    # The models' process hears of what was passed on, unless its client had better get no more: then later.
    cdef int _hold_window(self, InferRequest request, uint64_t number) except -1:
        if request.cancelled:
            return 0
        if request.congested:
            if request.held_back is None:
                request.held_back = []
            request.held_back.append(lambda: self._took(number))
            return 0
        self._took(number)
        return 0

    def _took(self, number):
        self.taken[number] = self.taken.get(number, 0) + 1
        self.flush_soon()

    # -- calls -------------------------------------------------------------------------------------

    async def ask(self, str name, *arguments):
        """What the models' process answers to a control call. ServerError, as it raises it."""
        cdef uint64_t number
        if self.closed:
            raise Unavailable("Server exiting")
        self.last_call += 1
        number = self.last_call
        future = self.calls[number] = self.loop.create_future()
        try:
            self.call(number, encoded([name, list(arguments)]))
            return outcome(await future)
        finally:
            self.calls.pop(number, None)


cdef class RemoteServable(Servable):
    """A version that the models' process serves. `number`: that it has there."""

    def __init__(self, RemoteServer server, uint64_t number, signature, config):
        Servable.__init__(self, server.reactor, signature, config)
        self.link = server.link
        self.remote_number = number

    cdef int submit(self, InferRequest request, ResponseSink sink, int64_t now_ns) except -1:
        cdef Tensor tensor
        for tensor in request.inputs:
            if tensor.datatype == DT_INVALID:
                # Refused there too, but no message can say it.
                self.signature.validated(request)
        self.link.submit(request, self)
        request.state = REQUEST_RUNNING
        return self._accept(request, sink)

    cdef int cancel(self, InferRequest request, int64_t now_ns) except -1:
        if request.model is not self or request.cancelled or request.state == REQUEST_DONE:
            return 0
        self.link.cancel(request.arrival)
        self._forsake(request)
        return self._answer(request, None)

    cdef int over(self, InferRequest request) except -1:
        if request.awaits & AWAITS_FINAL:  # it went without an answer
            self._answer(request, None)
        return self._free(request)

    def goes_on_with(self, InferRequest request):
        # The models' process knows.
        return True

    def retire(self):
        """Another load has taken its place, or none: who has looked it up looks again."""
        self.draining = True


class _Entry:
    """A model, as far as lookups need it."""

    def __init__(self, shown, ready):
        self.shown = shown
        self._ready = ready

    def ready(self):
        """READY versions, ascending."""
        return self._ready


class _Repository:
    """The repository, as far as front-ends ask for it. `models`: name -> _Entry."""

    def __init__(self):
        self.models = {}

    def explain(self, str name, version):
        """Why it does not serve, as ModelRepository has it."""
        entry = self.models.get(name)
        return not_served(name, version, None if entry is None else entry.shown)


cdef class RemoteServer(InferenceServer):
    """`pool`: memory that the models' process sees, for what is received. `n_frontends`: that share the machine."""

    def __init__(self, settings, reactor, loop, pool, ModelsLane link, n_frontends):
        self.id = settings.id
        self.version = TRITON_VERSION
        self.settings = settings
        self.loop = loop
        self.reactor = reactor
        self.pool = self.large_pool = pool
        self.regions = RegionRegistry((lambda: None) if settings.allow_client_shm else None)
        self.extensions = tuple(
            [name for name in EXTENSIONS if not name.endswith("_shared_memory") or self.regions.enabled]
        )
        self.share_nbytes = memory_limit() // UNSENT_SHARE // n_frontends
        self.latest = {}
        self.versions = {}
        self.served = {}
        self.input_pools = {}
        self.readiness_waiters = set()
        self.repository = _Repository()
        self.link = link
        link.server = self

    # -- what the models' process tells --------------------------------------------------------------

    def set_state(self, int state, int64_t max_held_nbytes, bint reads_context, bint models_asked):
        """ServerState of the models' process, and what it wants to know of requests."""
        self.state = state
        self.max_held_nbytes = max_held_nbytes
        self.reads_context = reads_context
        self.models_asked = models_asked

    def set_models(self, changed):
        """Models by name: None for one that is gone, else what `descriptions.describe` says of it."""
        for name, told in changed.items():
            self._set_model(name, told)

    def _set_model(self, str name, told):
        cdef RemoteServable model
        cdef dict known = {}
        self.latest.pop(name, None)
        for version in self.served.pop(name, ()):
            model = self.versions.pop((name, version))
            known[model.remote_number] = model
        if told is None:
            self.repository.models.pop(name, None)
        else:
            ready = [one["version"] for one in told["ready"]]
            self.repository.models[name] = _Entry(told["shown"], ready)
            for one in told["ready"]:
                model = known.pop(one["number"], None)
                if model is None:
                    config = RemoteConfig(one["config"], one["platform"])
                    model = RemoteServable(self, one["number"], signature_of(name, one), config)
                self.versions[name, one["version"]] = self.latest[name] = model
            if ready:
                self.served[name] = tuple(ready)
        for model in known.values():
            model.retire()

    def set_regions(self, told):
        """All regions: [kind, name, key, offset, nbytes, device]."""
        cdef Region region
        cdef dict regions = {}
        for kind, name, key, offset, nbytes, device in told:
            region = self.regions.regions.get(name)
            if region is None or (region.kind, region.key, region.offset, region.nbytes, region.device_id) != (
                kind, key, offset, nbytes, device
            ):
                region = Region.__new__(Region)
                region.kind, region.name, region.key = kind, name, key
                region.offset, region.nbytes, region.device_id = offset, nbytes, device
                region.data = NOWHERE
                region.memory_type = MEMORY_GPU  # no byte of it is to be had in this process
            regions[name] = region
        self.regions.regions = regions

    def wake_readiness(self):
        """Something may have changed."""
        self._wake_readiness()

    # -- what it answers itself, or asks -----------------------------------------------------------

    async def is_ready(self):
        return await self.link.ask("is_ready")

    async def model_is_ready(self, str name, int64_t version=-1):
        return await self.link.ask("model_is_ready", name, version)

    def asks_models(self):
        return self.models_asked

    async def model_statistics(self, str name, int64_t version=-1):
        return await self.link.ask("model_statistics", name, version)

    async def all_statistics(self):
        return await self.link.ask("all_statistics")

    async def repository_index(self, bint ready_only=False):
        return await self.link.ask("repository_index", ready_only)

    async def load_model(self, str name, parameters=None):
        await self.link.ask("load_model", name, parameters)

    async def unload_model(self, str name, bint unload_dependents=False):
        await self.link.ask("unload_model", name, unload_dependents)

    async def ask_trace_settings(self, str name=""):
        return await self.link.ask("ask_trace_settings", name)

    async def set_trace_settings(self, str name, changes):
        return await self.link.ask("set_trace_settings", name, changes)

    async def log_settings(self):
        return await self.link.ask("log_settings")

    async def change_log_settings(self, changes):
        return await self.link.ask("change_log_settings", changes)

    async def ask_regions(self, str kind, str name=""):
        return await self.link.ask("ask_regions", kind, name)

    async def register_cuda_region(self, str name, bytes handle, device_id, nbytes):
        await asyncio.shield(self.link.ask("register_cuda_region", name, handle, device_id, nbytes))

    async def register_system_region(self, str name, str key, offset, nbytes):
        await asyncio.shield(self.link.ask("register_system_region", name, key, offset, nbytes))

    async def unregister_regions(self, str kind, str name=""):
        await asyncio.shield(self.link.ask("unregister_regions", kind, name))

    async def metrics_parts(self):
        return await self.link.ask("metrics_parts")

    async def made_metrics(self, str name):
        return await self.link.ask("made_metrics", name)
