"""The wire form of what the server and a worker say to each other: writing it, and reading it without trust."""

import logging

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint16_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from triton_async.datatypes cimport DT_BYTES, DT_COUNT, DT_INVALID, elements
from triton_async.datatypes cimport nbytes as size_of
from triton_async.infer.framing cimport ta_bytes_skip
from triton_async.infer.tensor cimport TA_MAX_RANK, view_dims
from triton_async.memory.arena cimport ta_lease_return
from triton_async.memory.buffer cimport MEMORY_CPU, Buffer, foreign

from triton_async.backends.python.defines import WORKER_INLINE_NBYTES, WORKER_MAX_TENSORS, WORKER_MESSAGE_NBYTES
from triton_async.errors import InvalidArg, Unavailable

log = logging.getLogger("triton_async.python")

cdef Py_ssize_t INLINE_NBYTES = WORKER_INLINE_NBYTES
cdef Py_ssize_t MESSAGE_NBYTES = WORKER_MESSAGE_NBYTES
cdef int MAX_TENSORS = WORKER_MAX_TENSORS
# Bytes that a tensor in shared memory is aligned to; the worker's arrays begin there.
cdef int64_t ALIGNMENT = 64

# Bytes from which a copy is made without the GIL, or, where that may be, not at all.
cdef int64_t LARGE_NBYTES = 1 << 16


class WireError(Exception):
    """A worker has said what no worker of ours says."""


class TakesLong(Exception):
    """An event asks for more to be copied than `Cursor.most_nbytes`. Nothing was done about it."""


cdef class Writer:
    """Bytes that grow."""

    def __cinit__(self):
        self.capacity = 512
        self.data = <char *>malloc(self.capacity)
        if self.data == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.data)

    cdef int raw(self, const char *data, Py_ssize_t nbytes) except -1:
        if nbytes > self.capacity - self.size:
            self._grow(nbytes)
        memcpy(self.data + self.size, data, nbytes)
        self.size += nbytes
        return 0

    cdef int counted(self, const char *data, uint32_t nbytes) except -1:
        if <Py_ssize_t>nbytes + 4 > self.capacity - self.size:
            self._grow(<Py_ssize_t>nbytes + 4)
        memcpy(self.data + self.size, &nbytes, 4)
        memcpy(self.data + self.size + 4, data, nbytes)
        self.size += <Py_ssize_t>nbytes + 4
        return 0

    cdef int _grow(self, Py_ssize_t nbytes) except -1:
        cdef Py_ssize_t capacity = 2 * (self.size + nbytes)
        cdef char *grown = <char *>realloc(self.data, capacity)
        if grown == NULL:
            raise MemoryError
        self.data = grown
        self.capacity = capacity
        return 0

    cdef int u8(self, uint8_t value) except -1:
        return self.raw(<char *>&value, 1)

    cdef int u32(self, uint32_t value) except -1:
        return self.raw(<char *>&value, 4)

    cdef int u64(self, uint64_t value) except -1:
        return self.raw(<char *>&value, 8)

    cdef int text(self, str value) except -1:
        cdef bytes encoded = value.encode()
        cdef uint16_t nbytes
        if len(encoded) > 0xFFFF:
            raise InvalidArg(f"a name or id of {len(encoded)} bytes is longer than models in worker processes take, "
                             "65535")
        nbytes = <uint16_t>len(encoded)
        self.raw(<char *>&nbytes, 2)
        return self.raw(PyBytes_AS_STRING(encoded), nbytes)

    cdef int long_text(self, bytes value) except -1:
        if len(value) > 0xFFFFFFFF:
            raise InvalidArg("a text of 4 GiB or more can not be given to a worker process")
        self.u32(<uint32_t>len(value))
        return self.raw(PyBytes_AS_STRING(value), len(value))

    cdef ta_lease *tensors(self, list found, SharedMemory memory) except? NULL:
        cdef Tensor tensor
        cdef ta_lease *lease = NULL
        cdef int64_t total = 0
        cdef int64_t inlined = 0
        cdef int64_t offset = 0
        cdef uint16_t count = 0
        cdef list large = []
        if len(found) > MAX_TENSORS:
            raise InvalidArg(f"{len(found)} tensors are more than models in worker processes take, {MAX_TENSORS}")
        for tensor in found:
            if tensor.nbytes <= INLINE_NBYTES and inlined + tensor.nbytes <= MESSAGE_NBYTES // 2:
                inlined += tensor.nbytes
                large.append(False)
            else:
                total += (tensor.nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
                large.append(True)
        if total:
            lease = memory.lease(total)
            if lease == NULL:
                raise Unavailable("no room for a request in the memory that is shared with its worker process")
        try:
            count = <uint16_t>len(found)
            self.raw(<char *>&count, 2)
            for index in range(count):
                tensor = <Tensor>found[index]
                self.text(tensor.name)
                self.u8(<uint8_t>tensor.datatype)
                self.u8(<uint8_t>tensor.rank)
                self.u8(IN_MEMORY if large[index] else INLINE)
                self.raw(<char *>tensor.dims, 8 * tensor.rank)
                self.u64(<uint64_t>tensor.nbytes)
                if not large[index]:
                    self.raw(tensor.data, tensor.nbytes)
                    continue
                self.u64(<uint64_t>(memory.offset_of(lease) + offset))
                _copy(memory.base + memory.offset_of(lease) + offset, tensor.data, tensor.nbytes)
                offset += (tensor.nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        except BaseException:
            if lease != NULL:
                ta_lease_return(lease)
            raise
        return lease

    def __bytes__(self):
        return PyBytes_FromStringAndSize(self.data, self.size)


cdef int _copy(char *to, const char *source, int64_t nbytes) except -1:
    if nbytes < LARGE_NBYTES:
        memcpy(to, source, nbytes)
    else:
        with nogil:
            memcpy(to, source, nbytes)
    return 0


cdef Cursor cursor_over(const char *data, Py_ssize_t nbytes, object owner):
    cdef Cursor cursor = Cursor.__new__(Cursor)
    cursor.at = data
    cursor.end = data + nbytes
    cursor.owner = owner
    return cursor


cdef class Cursor:
    """Private bytes that are read from front to end."""

    cdef const char *_take(self, uint64_t nbytes) except NULL:
        cdef const char *found = self.at
        if nbytes > <uint64_t>(self.end - self.at):
            raise WireError("a message ends inside an event")
        self.at += nbytes
        return found

    cdef int u8(self) except -1:
        return <uint8_t>self._take(1)[0]

    cdef uint32_t u32(self) except? 0xFFFFFFFF:
        cdef uint32_t value
        memcpy(&value, self._take(4), 4)
        return value

    cdef uint64_t u64(self) except? 0xFFFFFFFFFFFFFFFF:
        cdef uint64_t value
        memcpy(&value, self._take(8), 8)
        return value

    cdef str text(self):
        cdef uint16_t nbytes
        memcpy(&nbytes, self._take(2), 2)
        return _decoded(self._take(nbytes), nbytes)

    cdef bytes long_bytes(self):
        cdef uint32_t nbytes = self.u32()
        return PyBytes_FromStringAndSize(self._take(nbytes), nbytes)

    cdef str long_text(self):
        cdef uint32_t nbytes = self.u32()
        return _decoded(self._take(nbytes), nbytes)

    cdef list tensors(self, SharedMemory memory, SlabPool pool, list freed):
        cdef uint16_t count
        cdef list found = []
        memcpy(&count, self._take(2), 2)
        if count > MAX_TENSORS:
            raise WireError("too many tensors")
        for _ in range(count):
            found.append(self._tensor(memory, pool, freed))
        return found

    cdef Tensor _tensor(self, SharedMemory memory, SlabPool pool, list freed):
        cdef str name = self.text()
        cdef int datatype = self.u8()
        cdef int rank = self.u8()
        cdef int place = self.u8()
        cdef int64_t dims[TA_MAX_RANK]
        cdef int64_t count
        cdef uint64_t nbytes, offset
        cdef const char *source
        cdef Buffer buffer = None
        cdef int i
        if not DT_INVALID < datatype < DT_COUNT:
            raise WireError("a tensor of no known data type")
        if rank > TA_MAX_RANK:
            raise WireError("a tensor of too many dimensions")
        memcpy(dims, self._take(8 * rank), 8 * rank)
        for i in range(rank):
            if dims[i] < 0:
                raise WireError("a tensor with a negative dimension")
        count = elements(dims, rank)
        nbytes = self.u64()
        if count < 0 or datatype != DT_BYTES and (size_of(count, datatype) < 0 or
                                                  <uint64_t>size_of(count, datatype) != nbytes):
            raise WireError("a tensor whose bytes do not fill its shape")
        if place == INLINE:
            source = self._take(nbytes)
        elif place == IN_MEMORY:
            offset = self.u64()
            source = memory.inside(offset, nbytes)
            if source == NULL:
                raise WireError("a tensor outside of the shared memory")
            self.large_nbytes += <int64_t>nbytes
            if self.most_nbytes and self.large_nbytes > self.most_nbytes:
                raise TakesLong
        else:
            raise WireError("a tensor that is nowhere")
        if place == IN_MEMORY and self.lender is not None and nbytes >= <uint64_t>LARGE_NBYTES and datatype != DT_BYTES:
            buffer = _lent(memory, <char *>source, offset, <int64_t>nbytes, self.lender)
            return view_dims(name, datatype, dims, rank, count, buffer, buffer.data, <int64_t>nbytes)
        if place == IN_MEMORY:
            freed.append(offset)
            self.freed_nbytes += <int64_t>nbytes
        if nbytes:
            buffer = pool.lease(<int64_t>nbytes)
            _copy(buffer.data, source, <int64_t>nbytes)
        if datatype == DT_BYTES and not _is_framed(buffer, nbytes, count):
            raise WireError("a BYTES tensor whose elements do not fill its shape")
        return view_dims(name, datatype, dims, rank, count, buffer, NULL if buffer is None else buffer.data,
                         <int64_t>nbytes)


# A range of the shared memory as it is, until the Buffer is gone.
cdef Buffer _lent(SharedMemory memory, char *data, uint64_t offset, int64_t nbytes, object lender):
    cdef tuple lent = (memory, lender, offset, nbytes)
    cdef Buffer buffer = foreign(data, nbytes, <void *>lent, _give_back, MEMORY_CPU, 0)
    Py_INCREF(lent)
    buffer.readonly = True
    return buffer


cdef void _give_back(void *owner) noexcept nogil:
    with gil:
        _give_back_now(<tuple>owner)
        Py_DECREF(<object>owner)


cdef int _give_back_now(tuple lent) noexcept:
    try:
        lent[1](lent[2], lent[3])
    except BaseException:
        log.exception("memory that was lent by a Python worker could not be given back")
    return 0


# Whether the bytes, which are private by now, are `count` elements and nothing else.
cdef bint _is_framed(Buffer buffer, uint64_t nbytes, int64_t count):
    cdef int64_t end
    if nbytes == 0 or count == 0:
        return nbytes == 0 and count == 0
    with nogil:
        end = ta_bytes_skip(buffer.data, <int64_t>nbytes, 0, count)
    return end >= 0 and <uint64_t>end == nbytes


cdef str _decoded(const char *data, Py_ssize_t nbytes):
    try:
        return PyUnicode_DecodeUTF8(data, nbytes, NULL)
    except UnicodeDecodeError:
        raise WireError("a text that is not UTF-8") from None
