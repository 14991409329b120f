"""DLPack's structures for tensors in GPU memory (version 0 of the exchange, which every library speaks). Tested on a
fake driver; it has not run on a GPU."""

from cpython.pycapsule cimport (
    PyCapsule_GetPointer,
    PyCapsule_IsValid,
    PyCapsule_New,
    PyCapsule_SetName,
)
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free

from triton_async.datatypes cimport DT_BF16, DT_BOOL, DT_FP16, DT_FP32, DT_FP64, DT_INT8, DT_INVALID, DT_UINT8
from triton_async.datatypes cimport elements, itemsize
from triton_async.datatypes cimport nbytes as size_of
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor, view_dims
from triton_async.memory.buffer cimport MEMORY_GPU, Buffer, foreign

from triton_async.memory.cuda import load_driver

# dlpack.h: DLDeviceType, DLDataTypeCode.
cdef enum:
    CUDA = 2
    CODE_INT = 0
    CODE_UINT = 1
    CODE_FLOAT = 2
    CODE_BFLOAT = 4
    CODE_BOOL = 6

cdef struct DLTensor:
    void *data
    int32_t device_type
    int32_t device_id
    int32_t ndim
    uint8_t code
    uint8_t bits
    uint16_t lanes
    int64_t *shape
    int64_t *strides     # in elements; NULL: C-contiguous
    uint64_t byte_offset

cdef struct DLManagedTensor:
    DLTensor tensor
    void *manager
    void (*deleter)(DLManagedTensor *self) noexcept nogil

# One that is made here, with room for its dims behind it.
cdef struct Exported:
    DLManagedTensor managed
    int64_t[16] dims

cdef const char *FRESH = b"dltensor"
cdef const char *USED = b"used_dltensor"


cdef Tensor take_capsule(str name, object capsule):
    cdef DLManagedTensor *managed = <DLManagedTensor *>PyCapsule_GetPointer(capsule, FRESH)
    cdef DLTensor *source = &managed.tensor
    cdef int datatype
    cdef int64_t count
    cdef int64_t nbytes
    cdef Buffer buffer
    cdef char *data
    if source.device_type != CUDA:
        raise ValueError(f"it is on a device of type {source.device_type}, not on a CUDA GPU")
    datatype = _datatype(source)
    if datatype == DT_INVALID:
        raise ValueError(f"elements of type {source.code} with {source.bits} bits are not supported")
    if not 0 <= source.ndim <= TA_MAX_RANK:
        raise ValueError(f"it has {source.ndim} dimensions, at most {TA_MAX_RANK} are supported")
    count = elements(source.shape, source.ndim)
    nbytes = size_of(count, datatype)
    if count < 0 or nbytes < 0:
        raise ValueError("its shape is too large")
    if not _contiguous(source):
        raise ValueError("only contiguous tensors in C order are supported")
    try:
        load_driver()
    except OSError as error:
        raise ValueError(f"{error}") from None
    PyCapsule_SetName(capsule, USED)
    data = <char *>source.data + source.byte_offset
    buffer = foreign(data, nbytes, managed, _give_back, MEMORY_GPU, source.device_id)
    if nbytes == 0:
        return view_dims(name, datatype, source.shape, source.ndim, count, None, NULL, 0)
    return view_dims(name, datatype, source.shape, source.ndim, count, buffer, data, nbytes)


cdef object make_capsule(Tensor tensor):
    cdef Exported *exported = <Exported *>calloc(1, sizeof(Exported))
    cdef DLTensor *made
    cdef int i
    if exported == NULL:
        raise MemoryError
    made = &exported.managed.tensor
    made.data = tensor.data
    made.device_type = CUDA
    made.device_id = tensor.buffer.device_id
    made.ndim = tensor.rank
    made.lanes = 1
    made.bits = 8 * itemsize(tensor.datatype)
    made.code = _code(tensor.datatype)
    for i in range(tensor.rank):
        exported.dims[i] = tensor.dims[i]
    made.shape = exported.dims
    exported.managed.deleter = _let_go
    try:
        capsule = PyCapsule_New(&exported.managed, FRESH, _end_of_capsule)
    except BaseException:
        free(exported)
        raise
    Py_INCREF(tensor)
    exported.managed.manager = <void *>tensor
    return capsule


# The end of a lease of another library's memory.
cdef void _give_back(void *owner) noexcept nogil:
    cdef DLManagedTensor *managed = <DLManagedTensor *>owner
    if managed.deleter != NULL:
        with gil:
            managed.deleter(managed)


# The deleter of ours.
cdef void _let_go(DLManagedTensor *managed) noexcept nogil:
    with gil:
        Py_DECREF(<Tensor>managed.manager)
    free(managed)


# Nobody took it.
cdef void _end_of_capsule(object capsule) noexcept:
    cdef DLManagedTensor *managed
    if PyCapsule_IsValid(capsule, FRESH):
        managed = <DLManagedTensor *>PyCapsule_GetPointer(capsule, FRESH)
        managed.deleter(managed)


cdef int _datatype(const DLTensor *source) noexcept:
    cdef int power
    if source.lanes != 1:
        return DT_INVALID
    if source.code == CODE_BOOL:
        return DT_BOOL if source.bits == 8 else DT_INVALID
    if source.code == CODE_BFLOAT:
        return DT_BF16 if source.bits == 16 else DT_INVALID
    if source.code == CODE_FLOAT:
        return {16: DT_FP16, 32: DT_FP32, 64: DT_FP64}.get(source.bits, DT_INVALID)
    power = {8: 0, 16: 1, 32: 2, 64: 3}.get(source.bits, -1)
    if power < 0 or source.code not in (CODE_INT, CODE_UINT):
        return DT_INVALID
    return (DT_INT8 if source.code == CODE_INT else DT_UINT8) + power


cdef int _code(int datatype) noexcept:
    if datatype == DT_BOOL:
        return CODE_BOOL
    if datatype == DT_BF16:
        return CODE_BFLOAT
    if datatype >= DT_FP16:
        return CODE_FLOAT
    return CODE_INT if datatype >= DT_INT8 else CODE_UINT


cdef bint _contiguous(const DLTensor *source) noexcept:
    cdef int64_t step = 1
    cdef int i
    if source.strides == NULL:
        return True
    for i in range(source.ndim - 1, -1, -1):
        if source.shape[i] == 0:
            return True
        if source.shape[i] != 1 and source.strides[i] != step:
            return False
        step *= source.shape[i]
    return True
