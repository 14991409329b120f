# The shared memory parameters of an input or requested output of a gRPC request.

from libc.stdint cimport uint64_t

from triton_async.memory.buffer cimport Buffer
from triton_async.memory.regions cimport RegionRegistry
from triton_async.protocol.grpc_parameters cimport Parameter
from triton_async.protocol.wire cimport ta_wire

cdef struct RegionParameters:
    bint named             # shared_memory_region is there
    bint has_offset
    bint has_size
    int region_kind        # ParameterKind of each
    int offset_kind
    int size_kind
    ta_wire region         # inside the message
    uint64_t offset
    uint64_t nbytes

cdef void clear(RegionParameters *found) noexcept

# Takes a parameter; False when it is none of these three.
cdef bint note(RegionParameters *found, str key, const Parameter *value) except -1

# Whether the parameters name a region. Raises InvalidArg, in Triton's words, when they do not go together. `tensor`:
# the name of the input or output.
cdef bint names_region(const RegionParameters *found, ta_wire tensor) except -1

# What they name. Raises NotFound and InvalidArg. Loop thread.
cdef Buffer lease(const RegionParameters *found, RegionRegistry regions, bint writable, bint private)
