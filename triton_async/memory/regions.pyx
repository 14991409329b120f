"""Shared memory regions of clients: registered by name, leased to requests, closed when nobody uses them."""

import logging
import threading
from concurrent.futures import Future
from queue import SimpleQueue

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport UINT64_MAX, uintptr_t

from triton_async.memory.buffer cimport MEMORY_CPU, MEMORY_GPU, foreign, wrap
from triton_async.memory.mapping cimport Mapping

from triton_async.defines import CUDA_IPC_HANDLE_NBYTES, MAX_REGION_NAME_NBYTES, MAX_REGIONS
from triton_async.errors import (
    AlreadyExists,
    InternalError,
    InvalidArg,
    NotFound,
    ServerError,
    Unavailable,
    Unsupported,
)

log = logging.getLogger("triton_async.memory")

CUDA = "cuda"
SYSTEM = "system"

# The other kind, and both as Triton's messages name them.
_OTHER = {CUDA: SYSTEM, SYSTEM: CUDA}
_SHOWN = {CUDA: "CUDA", SYSTEM: "system"}

# Where POSIX shared memory is, and what Triton's Python backend begins its own with: no client may name that.
_FOLDER = "/dev/shm"
_RESERVED = "triton_python_backend_shm_region_"


cdef class Region:
    """One open region. Made by the registry."""

    def describe(self):
        """Its entry in a status answer."""
        if self.kind == SYSTEM:
            return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.nbytes}
        return {"name": self.name, "device_id": self.device_id, "byte_size": self.nbytes}


cdef void _end_lease(void *owner) noexcept nogil:
    with gil:
        _lease_ended(<Region>owner)


cdef int _lease_ended(Region region) noexcept:
    Py_DECREF(region)
    region.leases -= 1
    if region.leases == 0 and region.retired:
        try:
            region.registry.start_close(region)
        except BaseException:  # it goes with the process
            log.exception("shared memory region '%s' could not be closed", region.name)
    return 0


cdef class RegionRegistry:
    """The regions of one server. `open_devices`: how a GPU is reached when the first CUDA region comes; None: clients
    may not register any region."""

    def __init__(self, open_devices=None):
        self.enabled = open_devices is not None
        self.open_devices = open_devices
        self.regions = {}
        self.opening = set()
        self.retired = set()
        self.lock = threading.Lock()
        # A lease may end wherever memory is freed, also inside `put`, which only this queue allows.
        self.tasks = SimpleQueue()

    @property
    def leases(self):
        """Leases out, over all regions."""
        with self.lock:
            return sum([(<Region>region).leases for region in (*self.regions.values(), *self.retired)])

    # -- opening -----------------------------------------------------------------------------------

    def register_cuda(self, str name, bytes handle, device_id, nbytes):
        """Opens the allocation that a `handle` of another process names, whose first `nbytes` bytes requests may then
        use: a Future that is done when they may. ServerError with Triton's words, from here or from the Future."""
        self._check_name(CUDA, name)
        if len(handle) != CUDA_IPC_HANDLE_NBYTES:
            raise InvalidArg(f"'raw_handle' must be a valid cudaIpcMemHandle_t of {CUDA_IPC_HANDLE_NBYTES} bytes, got "
                             f"{len(handle)}")
        return self._begin(self._map_cuda, name, handle, device_id, nbytes)

    def register_system(self, str name, str key, uint64_t offset, uint64_t nbytes):
        """Opens the POSIX shared memory that `key` names, with or without its slash, of which requests may then use
        `nbytes` bytes from `offset` on: a Future that is done when they may. The name may go meanwhile. ServerError
        with Triton's words, from here or from the Future."""
        self._check_name(SYSTEM, name)
        file = key.lstrip("/")
        if file.startswith(_RESERVED):
            raise InvalidArg(f"cannot register shared memory region '{name}' with key '{key}': keys that begin with "
                             f"'{_RESERVED}' are reserved")
        if not file or "/" in file or "\0" in file or file in (".", ".."):
            raise InvalidArg(f"cannot register shared memory region '{name}' with key '{key[:256]}': it is no name of "
                             "shared memory")
        return self._begin(self._map_system, name, key, offset, nbytes)

    def _check_name(self, str kind, str name):
        self.check_allowed()
        if not name:
            raise InvalidArg(f"'region name' is necessary to register {kind} shared memory region")
        if len(name.encode("utf-8", "replace")) > MAX_REGION_NAME_NBYTES:
            raise InvalidArg(f"the name of a shared memory region must not exceed {MAX_REGION_NAME_NBYTES} bytes")

    def _begin(self, open_region, str name, *arguments):
        with self.lock:
            if name in self.regions or name in self.opening:
                raise AlreadyExists(f"shared memory region '{name}' already in manager")
            if len(self.regions) + len(self.opening) + len(self.retired) >= MAX_REGIONS:
                raise Unavailable(f"there are {MAX_REGIONS} shared memory regions already, unregister some first")
            self.opening.add(name)
        try:
            return self.run(self._open, (open_region, name, *arguments))
        except BaseException:
            self.opening.discard(name)
            raise

    def check_allowed(self):
        """Raises Unsupported when clients may not register regions, Unavailable when not any more."""
        if not self.enabled:
            raise Unsupported("Client shared memory is disabled. Start the server with '--allow-client-shm=true' to "
                              "enable.")
        if self.stopped:
            raise Unavailable("Server exiting")

    cdef object run(self, object function, tuple arguments):
        future = Future()
        if self.worker is None:
            # A daemon: what CUDA does not finish must not keep the process.
            worker = threading.Thread(target=_work, args=(self.tasks,), name="regions", daemon=True)
            try:
                worker.start()
            except RuntimeError:
                raise Unavailable("no thread can be started to open shared memory regions") from None
            self.worker = worker
        self.tasks.put((future, function, arguments))
        return future

    # Worker thread.
    def _open(self, open_region, str name, *arguments):
        cdef Region region
        try:
            region = open_region(name, *arguments)
        except BaseException:
            self.opening.discard(name)
            raise
        with self.lock:
            self.opening.discard(name)
            if not self.stopped:
                self.regions[name] = region
                return
        region.close()
        raise Unavailable("Server exiting")

    def _map_cuda(self, str name, bytes handle, device_id, nbytes):
        cdef Region region = Region.__new__(Region)
        devices = self._reach_devices(name)
        refused = f"failed to register shared memory region '{name}': invalid args"
        if device_id not in [info.index for info in devices.infos]:
            raise InvalidArg(f"{refused}, there is no GPU {device_id}")
        try:
            devices.use(device_id)
            address = devices.open_ipc(device_id, handle)
        except (ServerError, MemoryError) as error:
            # A handle of this very process cannot be opened either.
            log.error("failed to open CUDA IPC handle of shared memory region '%s': %s", name, error)
            raise InvalidArg("failed to register shared memory region: invalid args") from None
        fits = False
        try:
            fits = nbytes <= devices.allocation_nbytes(address)
        except (ServerError, MemoryError) as error:
            log.error("size of shared memory region '%s' is not known: %s", name, error)
        finally:
            if not fits:
                devices.close_ipc(device_id, address)
        if not fits:
            raise InvalidArg(refused)
        region.name = name
        region.kind = CUDA
        region.nbytes = nbytes
        region.device_id = device_id
        region.data = <char *><uintptr_t>address
        region.memory_type = MEMORY_GPU
        region.close = lambda: devices.close_ipc(device_id, address)
        region.registry = self
        return region

    def _map_system(self, str name, str key, uint64_t offset, uint64_t nbytes):
        cdef Region region = Region.__new__(Region)
        cdef Mapping mapping
        try:
            mapping = Mapping(f"{_FOLDER}/{key.lstrip('/')}", offset, nbytes)
        except ValueError:  # it is shorter
            raise InvalidArg(f"failed to register shared memory region '{name}': invalid args") from None
        except (OSError, UnicodeError) as error:
            log.error("shared memory region '%s' can not be opened: %s", name, getattr(error, "strerror", error))
            raise InternalError(f"Unable to open shared memory region: '{key}'") from None
        region.name = name
        region.kind = SYSTEM
        region.key = key
        region.offset = <int64_t>offset
        region.nbytes = <int64_t>nbytes
        region.mapping = mapping
        region.data = mapping.data
        region.memory_type = MEMORY_CPU
        region.close = mapping.close
        region.registry = self
        return region

    def _reach_devices(self, str name):
        if self.devices is None:
            reason = "no GPU can be used"
            try:
                devices = self.open_devices()
                if devices.infos:
                    self.devices = devices
            except ServerError as error:
                reason = error.message
            if self.devices is None:
                raise InvalidArg(f"failed to register CUDA shared memory region: '{name}', GPUs not supported: "
                                 f"{reason}")
        return self.devices

    # -- use ---------------------------------------------------------------------------------------

    cdef Buffer lease(self, str name, uint64_t offset, uint64_t nbytes, bint writable, bint private=False):
        cdef Region region = <Region>self.regions.get(name)
        if region is None:
            raise NotFound(f"Unable to find shared memory region: '{name}'")
        # Before anything that may let another thread run: from here on nobody closes it.
        Py_INCREF(region)
        region.leases += 1
        try:
            return self._lease(region, offset, nbytes, writable, private)
        except BaseException:
            _end_lease(<void *>region)
            raise

    # The same of a region, one lease of which goes to the Buffer.
    cdef Buffer _lease(self, Region region, uint64_t offset, uint64_t nbytes, bint writable, bint private):
        cdef str name = region.name
        cdef Buffer buffer
        if offset >= <uint64_t>region.nbytes:
            raise InvalidArg(f"Invalid offset for shared memory region: '{name}'")
        if nbytes > UINT64_MAX - offset:
            raise InvalidArg(f"Integer overflow detected: byte_size ({nbytes}) + offset ({offset}) exceeds maximum "
                             f"value ({UINT64_MAX}) for region '{name}'")
        if nbytes > <uint64_t>region.nbytes - offset:
            raise InvalidArg(f"Invalid offset + byte size for shared memory region: '{name}'")
        if region.mapping is not None:
            copy = region.data[offset:offset + nbytes] if private and region.mapping.whole() else None
            if not region.mapping.whole():
                raise InvalidArg(f"shared memory region '{name}' has become smaller since it was registered")
            if copy is not None:
                buffer = wrap(copy)
                _end_lease(<void *>region)
                return buffer
        buffer = foreign(region.data + offset, <int64_t>nbytes, <void *>region, _end_lease, region.memory_type,
                         region.device_id)
        buffer.readonly = not writable
        return buffer

    def acquire(self, str name, uint64_t offset, uint64_t nbytes, bint writable=False, bint private=False):
        """Python form of `lease`."""
        return self.lease(name, offset, nbytes, writable, private)

    def status(self, str kind, str name=""):
        """Entries of one region, or of all of a kind by name. A region that is unregistered and still in use counts,
        as Triton shows it. NotFound."""
        with self.lock:
            found = {(<Region>region).name: region for region in self.retired}
            found.update(self.regions)
        if not name:
            return [(<Region>found[key]).describe() for key in sorted(found) if (<Region>found[key]).kind == kind]
        if name not in found:
            raise NotFound(f"Unable to find {kind} shared memory region: '{name}'")
        if (<Region>found[name]).kind != kind:
            raise NotFound(f"The region named '{name}' is registered as {_SHOWN[_OTHER[kind]]} shared memory, not "
                           f"{_SHOWN[kind]} shared memory")
        return [(<Region>found[name]).describe()]

    # -- closing -----------------------------------------------------------------------------------

    def unregister(self, str kind, str name=""):
        """Takes a region, or all of the kind, out; an unknown name is none. The name is free at once. (name, Future)
        of what is being closed now; a region in use is closed when its last lease ends."""
        self.check_allowed()
        return self._retire([name] if name else list(self.regions), kind)

    def _retire(self, names, kind):
        cdef Region region
        idle = []
        with self.lock:
            for name in names:
                region = <Region>self.regions.get(name)
                if region is None or region.kind != kind:
                    continue
                del self.regions[name]
                region.retired = True
                self.retired.add(region)
                if region.leases == 0:
                    idle.append(region)
        return [(region.name, self.start_close(region)) for region in idle]

    cdef object start_close(self, Region region):
        return self.run(self._close, (region,))

    # Worker thread.
    def _close(self, Region region):
        try:
            region.close()
        except ServerError as error:
            log.error("failed to close shared memory region '%s': %s", region.name, error.message)
            raise InternalError(f"failed to close CUDA IPC handle: {error.message}") from None
        finally:
            with self.lock:
                self.retired.discard(region)
            region.registry = None

    def stop(self):
        """Closes everything, once no request is left; Futures of it. Nothing can be registered any more."""
        if self.stopped:
            return []
        self.stopped = True
        closing = [future for kind in (CUDA, SYSTEM) for _, future in self._retire(list(self.regions), kind)]
        if self.worker is not None:
            # Behind what is still being opened, or closed for a lease that ended before.
            closing.append(self.run(_nothing, ()))
            self.tasks.put(None)
        return closing


def _work(tasks):
    """The worker thread."""
    while (task := tasks.get()) is not None:
        future, function, arguments = task
        # Nobody can take it back any more; a region must be closed whoever waits for it.
        future.set_running_or_notify_cancel()
        try:
            result = function(*arguments)
        except BaseException as error:
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(result)
        # Or the last region would live until the next task.
        del task, future, function, arguments


def _nothing():
    pass


cdef Buffer lease_region(RegionRegistry registry, str name, uint64_t offset, uint64_t nbytes, bint writable,
                         bint private=False):
    if registry is None:
        raise NotFound(f"Unable to find shared memory region: '{name}'")
    return registry.lease(name, offset, nbytes, writable, private)
