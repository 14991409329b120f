# Memory of clients that requests may name: shared memory regions.
#
# One registry for the server. Registered and unregistered on the loop thread; opened and closed on the registry's own
# thread, because CUDA may take milliseconds; leased, and leases ended, on any thread with the GIL.
#
#   (opening) --opened--> REGISTERED --unregister--> RETIRED --last lease ended--> (closing) --> gone
#
# Invariants
#   - a name is in `regions` or in `opening`, never in both
#   - a region is open exactly while it is in `regions` or in `retired`; leases > 0 keeps it in one of them

from libc.stdint cimport int64_t, uint64_t

from triton_async.memory.buffer cimport Buffer
from triton_async.memory.mapping cimport Mapping

cdef class Region:
    cdef readonly str name
    cdef readonly str kind           # "cuda" or "system"
    cdef readonly str key            # of a system region: its name as shm_open has it
    cdef readonly int64_t offset     # of a system region: in what the key names
    cdef Mapping mapping             # of a system region; it may become smaller behind our back
    cdef readonly int64_t nbytes
    cdef readonly int device_id
    cdef readonly int64_t leases     # out
    cdef char *data                  # first byte; on the device for MEMORY_GPU
    cdef int memory_type
    cdef bint retired                # to be closed with the last lease
    cdef object close                # gives the memory back; blocking
    cdef RegionRegistry registry

cdef class RegionRegistry:
    cdef readonly bint enabled       # clients may register regions
    cdef bint stopped
    cdef dict regions                # name -> Region
    cdef set opening                 # names that are being opened
    cdef set retired                 # of Region
    cdef object lock                 # over the three; lookups by name need none
    cdef object devices              # memory.devices.Devices, once there is one
    cdef object open_devices         # () -> Devices
    cdef object worker               # the thread that opens and closes, made with the first region
    cdef object tasks                # what it has still to do: (Future, function, arguments), None to end

    # The bytes `offset` to `offset + nbytes` of a region, which stays open until the Buffer is gone. Raises NotFound
    # and InvalidArg in Triton's words. Any thread.
    # `private`: a copy of their own, for bytes whose lengths are checked first and used later (BYTES): the client may
    # change its memory between the two.
    cdef Buffer lease(self, str name, uint64_t offset, uint64_t nbytes, bint writable, bint private=*)

    cdef Buffer _lease(self, Region region, uint64_t offset, uint64_t nbytes, bint writable, bint private)
    cdef object run(self, object function, tuple arguments)
    cdef object start_close(self, Region region)

# The same for a registry that may be None: then no region is known.
cdef Buffer lease_region(RegionRegistry registry, str name, uint64_t offset, uint64_t nbytes, bint writable,
                         bint private=*)
