"""Copies in and out of one instance's device buffers: as few calls as the memory allows. Instance thread, no GIL."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from triton_async.infer.batch cimport (
    TA_PLACED,
    TA_TOO_SMALL,
    TA_WANTED_ANYWHERE,
    TA_WANTED_PLACED,
    ta_batch,
    ta_placement,
    ta_segment,
    ta_tensor,
)
from triton_async.infer.gather cimport ta_gather
from triton_async.memory.arena cimport ta_arena_lease, ta_lease, ta_lease_return
from triton_async.memory.buffer cimport MEMORY_CPU, MEMORY_CPU_PINNED, MEMORY_GPU
from triton_async.memory.cuda cimport ta_cuda_stream, ta_device_ptr
from triton_async.memory.slab cimport ta_slab, ta_slab_data, ta_slab_lease, ta_slab_return

from triton_async.defines import DEVICE_STAGE_NBYTES

cdef int64_t STAGE_NBYTES = DEVICE_STAGE_NBYTES

# Of csrc/gather.cu: the threads of a block, and the bytes that one block copies at least before there are more.
cdef enum:
    GATHER_THREADS = 256
    GATHER_BLOCK_NBYTES = 65536
    GATHER_BLOCKS_MAX = 64

# One segment as csrc/gather.cu reads it.
cdef struct Piece:
    uint64_t source
    uint64_t offset
    uint64_t nbytes


cdef int copy_in(const Copies *self, ta_tensor *input, ta_device_ptr to, ta_cuda_stream stream) noexcept nogil:
    cdef ta_slab *slab = NULL
    cdef ta_segment *segment
    cdef ta_device_ptr source
    cdef ta_device_ptr begin = 0    # of the run of bytes that goes in one copy
    cdef int64_t run = 0
    cdef int kind                   # memory type of the segment, and of the run: a copy must not leave an allocation,
    cdef int joined = MEMORY_GPU    # and only the pinned pool is known to be one
    cdef int64_t staged = _staged_nbytes(self, input)
    cdef char *stage = NULL
    cdef int i
    cdef int result
    if self.gather_kernel != NULL and input.n_segments >= self.gather_threshold and _reaches_all(self, input):
        return _gather_on_device(self, input, to, stream)
    if staged:
        slab = ta_slab_lease(self.staging, staged)
        if slab == NULL:
            return NO_HOST_MEMORY
        input.owner = slab
        input.release = ta_slab_return
        stage = ta_slab_data(slab)
    for i in range(input.n_segments):
        segment = &input.segments[i]
        if segment.nbytes == 0:
            continue
        source = <ta_device_ptr>segment.data
        kind = segment.memory_type
        if _is_staged(self, input, segment):
            memcpy(stage, segment.data, segment.nbytes)
            source = <ta_device_ptr>stage
            stage += segment.nbytes
            kind = slab.memory_type
        if kind == joined and kind != MEMORY_GPU and source == begin + <ta_device_ptr>run:
            run += segment.nbytes
            continue
        result = _flush(self, &to, begin, run, stream)
        if result:
            return result
        begin = source
        run = segment.nbytes
        joined = kind
    return _flush(self, &to, begin, run, stream)


cdef int _flush(const Copies *self, ta_device_ptr *to, ta_device_ptr begin, int64_t nbytes,
                ta_cuda_stream stream) noexcept nogil:
    cdef ta_device_ptr target = to[0]
    if nbytes == 0:
        return 0
    to[0] += <ta_device_ptr>nbytes
    return self.cuda.memcpy_async(target, begin, nbytes, stream)


# Small segments are cheaper to join on the host than to copy one by one.
cdef bint _is_staged(const Copies *self, const ta_tensor *input, const ta_segment *segment) noexcept nogil:
    if segment.memory_type == MEMORY_GPU:
        return False
    return (segment.memory_type == MEMORY_CPU and self.stage_pageable) or (
        segment.nbytes < STAGE_NBYTES and input.n_segments > 1)


cdef int64_t _staged_nbytes(const Copies *self, const ta_tensor *input) noexcept nogil:
    cdef int64_t total = 0
    cdef int i
    for i in range(input.n_segments):
        if _is_staged(self, input, &input.segments[i]):
            total += input.segments[i].nbytes
    return total


# Whether a kernel on the device can read every segment. Memory of another GPU only where peers are enabled, which
# nobody promises.
cdef bint _reaches_all(const Copies *self, const ta_tensor *input) noexcept nogil:
    cdef const ta_segment *segment
    cdef int i
    for i in range(input.n_segments):
        segment = &input.segments[i]
        if segment.memory_type == MEMORY_CPU or (
                segment.memory_type == MEMORY_GPU and segment.device_id != self.device):
            return False
    return True


cdef int _copy_each(const Copies *self, const ta_tensor *input, ta_device_ptr to, ta_cuda_stream stream) noexcept nogil:
    cdef int i
    cdef int result
    for i in range(input.n_segments):
        result = _flush(self, &to, <ta_device_ptr>input.segments[i].data, input.segments[i].nbytes, stream)
        if result:
            return result
    return 0


cdef int _gather_on_device(const Copies *self, ta_tensor *input, ta_device_ptr to,
                           ta_cuda_stream stream) noexcept nogil:
    cdef ta_slab *slab = ta_slab_lease(self.staging, input.n_segments * <int64_t>sizeof(Piece))
    cdef Piece *pieces
    cdef uint64_t offset = 0
    cdef int64_t largest = 0
    cdef int64_t blocks
    cdef uint64_t table
    cdef void* arguments[2]
    cdef int i
    if slab == NULL:
        return NO_HOST_MEMORY
    input.owner = slab
    input.release = ta_slab_return
    if slab.memory_type != MEMORY_CPU_PINNED:
        # The pool is exhausted, and the kernel cannot read this table.
        return _copy_each(self, input, to, stream)
    pieces = <Piece *>ta_slab_data(slab)
    for i in range(input.n_segments):
        pieces[i].source = <uint64_t>input.segments[i].data
        pieces[i].offset = offset
        pieces[i].nbytes = input.segments[i].nbytes
        offset += <uint64_t>input.segments[i].nbytes
        largest = max(largest, input.segments[i].nbytes)
    blocks = min(max(largest // GATHER_BLOCK_NBYTES, 1), <int64_t>GATHER_BLOCKS_MAX)
    table = <uint64_t>pieces
    arguments[0] = &to
    arguments[1] = &table
    return self.cuda.launch_kernel(self.gather_kernel, input.n_segments, blocks, 1, GATHER_THREADS, 1, 1, 0, stream,
                                   arguments, NULL)


cdef int read_to_host(const Copies *self, ta_tensor *input) noexcept nogil:
    cdef ta_slab *slab
    cdef char *to
    cdef int i
    cdef int result
    cdef bint on_device = False
    for i in range(input.n_segments):
        on_device = on_device or input.segments[i].memory_type == MEMORY_GPU
    if not on_device:
        return NO_HOST_MEMORY if ta_gather(input, self.staging) < 0 else 0
    slab = ta_slab_lease(self.staging, input.nbytes)
    if slab == NULL:
        return NO_HOST_MEMORY
    input.owner = slab
    input.release = ta_slab_return
    to = ta_slab_data(slab)
    input.data = to
    for i in range(input.n_segments):
        if input.segments[i].nbytes == 0:
            continue
        result = self.cuda.memcpy_sync(<ta_device_ptr>to, <ta_device_ptr>input.segments[i].data,
                                       input.segments[i].nbytes)
        if result:
            return result
        to += input.segments[i].nbytes
    return 0


cdef int copy_out(const Copies *self, ta_batch *batch, int index, const Output *source,
                  ta_cuda_stream stream) noexcept nogil:
    cdef ta_tensor *target = &batch.outputs[index]
    cdef ta_slab *slab
    cdef bint all_placed = False
    cdef int result = _place(self, batch, index, source, stream, &all_placed)
    if result:
        return result
    target.rank = source.rank
    memcpy(target.dims, source.dims, sizeof(source.dims))
    target.nbytes = source.nbytes
    if target.wanted == TA_WANTED_PLACED and all_placed:
        # Nobody reads it from here.
        target.data = <char *>source.address
        target.memory_type = MEMORY_GPU
        target.device_id = self.device
        return 0
    if target.wanted == TA_WANTED_ANYWHERE and _lease_on_device(self, target):
        return _copy(self, <ta_device_ptr>target.data, source.address, source.nbytes, stream)
    slab = ta_slab_lease(self.outputs, source.nbytes)
    if slab == NULL:
        return NO_HOST_MEMORY
    target.data = ta_slab_data(slab)
    target.owner = slab
    target.release = ta_slab_return
    target.memory_type = slab.memory_type
    target.device_id = 0
    return _copy(self, <ta_device_ptr>target.data, source.address, source.nbytes, stream)


# What the engine gave is its own, and used again for the next run but one. The driver is not asked for more than the
# pool has: it would wait for the device.
cdef bint _lease_on_device(const Copies *self, ta_tensor *target) noexcept nogil:
    cdef ta_lease *lease
    if self.device_outputs == NULL or target.nbytes == 0:
        return False
    lease = ta_arena_lease(self.device_outputs, target.nbytes)
    if lease == NULL:
        return False
    target.data = <char *>lease.address
    target.owner = lease
    target.release = ta_lease_return
    target.memory_type = MEMORY_GPU
    target.device_id = self.device
    return True


# Whether all placements of the output are done: pageable memory is left to core, as a copy to it would hold up the
# thread until the run is over.
cdef int _place(const Copies *self, ta_batch *batch, int index, const Output *source, ta_cuda_stream stream,
                bint *all_placed) noexcept nogil:
    cdef ta_placement *placement
    cdef int64_t row_nbytes = 0
    cdef int64_t offset
    cdef int result
    cdef int i
    if source.rank > 0 and source.dims[0] > 0:
        row_nbytes = source.nbytes // source.dims[0]
    all_placed[0] = True
    for i in range(batch.n_placements):
        placement = &batch.placements[i]
        if placement.output != index:
            continue
        # Fewer rows than the batch: an error that core makes of the whole output.
        if placement.memory_type == MEMORY_CPU or batch.outputs[index].parts != NULL or (
                placement.rows and (source.rank == 0 or placement.row + placement.rows > source.dims[0])):
            all_placed[0] = False
            continue
        offset = placement.row * row_nbytes if placement.rows else 0
        placement.nbytes = placement.rows * row_nbytes if placement.rows else source.nbytes
        if placement.nbytes > placement.capacity:
            placement.placed = TA_TOO_SMALL
            continue
        result = _copy(self, <ta_device_ptr>placement.data, source.address + <ta_device_ptr>offset, placement.nbytes,
                       stream)
        if result:
            return result
        placement.placed = TA_PLACED
    return 0


cdef int _copy(const Copies *self, ta_device_ptr to, ta_device_ptr source, int64_t nbytes,
               ta_cuda_stream stream) noexcept nogil:
    if nbytes == 0:
        return 0
    if stream == NULL:
        return self.cuda.memcpy_sync(to, source, nbytes)
    return self.cuda.memcpy_async(to, source, nbytes, stream)
