"""Conversions between tensors of a batch and ONNX Runtime values, without the GIL."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uintptr_t
from libc.string cimport memcmp, memcpy, memmove, strstr

from triton_async.backends.onnxruntime.api cimport (
    clean_message,
    from_element_type,
    ort_create_tensor,
    ort_create_tensor_with_data,
    ort_dimension_count,
    ort_dimensions,
    ort_get_error_code,
    ort_get_error_message,
    ort_memory_info,
    ort_release_status,
    ort_release_tensor_info,
    ort_release_value,
    ort_resized_string_buffer,
    ort_status,
    ort_string_content,
    ort_string_data_length,
    ort_table,
    ort_tensor_data,
    ort_tensor_element_type,
    ort_tensor_info,
    ort_tensor_type_and_shape,
    ort_value,
    set_settle,
)
from triton_async.codes cimport TA_CODE_INTERNAL, TA_CODE_INVALID_ARG
from triton_async.datatypes cimport DT_BYTES, elements, nbytes
from triton_async.infer.batch cimport TA_PLACED, ta_batch, ta_placement, ta_tensor
from triton_async.infer.gather cimport ta_batch_fail
from triton_async.infer.tensor cimport TA_MAX_RANK
from triton_async.memory.buffer cimport MEMORY_GPU
from triton_async.memory.slab cimport ta_slab, ta_slab_data, ta_slab_lease, ta_slab_return

cdef extern from *:
    """
    #include "later.h"
    #include "slab.h"
    /* Set once: there is one library in a process, and `release` of an output gets the value alone. */
    static ort_table release_table;
    /* What stands in for the bytes of a tensor that has none. */
    static char no_bytes[TA_SLAB_ALIGNMENT] __attribute__((aligned(TA_SLAB_ALIGNMENT)));
    static void release_value(void *value) { ort_release_value(release_table, (ort_value *)value); }
    static void release_large_value(void *value) { ta_later(release_value, value); }
    """
    ort_table release_table
    char *no_bytes
    void release_value(void *value) noexcept nogil
    void release_large_value(void *value) noexcept nogil

cdef extern from "later.h":
    enum: TA_LATER_NBYTES
    void ta_later_settle() noexcept nogil

# Stands at the beginning of a slab that a run is to write. An output that begins so is computed twice, once.
cdef extern from *:
    """
    static const unsigned char mark[16] = {0xA5, 0x1E, 0xC3, 0x78, 0x5B, 0xE4, 0x2D, 0x96,
                                           0x6F, 0xB1, 0x4A, 0xD7, 0x39, 0xF2, 0x8C, 0x05};
    """
    const unsigned char *mark

cdef enum:
    MARK_NBYTES = 16

# What ONNX Runtime says of a run into memory of another shape than the output has. It has no code of its own for that.
cdef const char *OTHER_SHAPE = "but the computed output shape for this run is"
cdef const char *OTHER_SHAPE_OLD = "shape verification failed"  # of older versions
cdef const char *OTHER_SIZE = "Tensor size mismatch"            # on the way from a GPU


cdef void set_release_table(ort_table api) noexcept nogil:
    global release_table
    release_table = api


cdef void settle_values() noexcept nogil:
    ta_later_settle()


set_settle(settle_values)


cdef int fail(const Engine *engine, ta_batch *batch, ort_status *status) noexcept nogil:
    cdef char[900] message  # what fits the batch's error with our words around it
    clean_message(ort_get_error_message(engine.api, status), message, sizeof(message))
    ta_batch_fail(batch, TA_CODE_INTERNAL, "onnx runtime error %d: %s", ort_get_error_code(engine.api, status), message)
    ort_release_status(engine.api, status)
    return -1


cdef int _no_memory(ta_batch *batch, const Port *port) noexcept nogil:
    ta_batch_fail(batch, TA_CODE_INTERNAL, "no memory for tensor '%.200s' of a batch", port.name)
    return -1


cdef int wrap_input(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *input,
                    ort_value **value) noexcept nogil:
    cdef int rank = 0 if port.scalar else input.rank
    cdef const ort_memory_info *info = engine.memory_info
    cdef ort_status *status
    cdef char *data = input.data
    if port.scalar and elements(input.dims, input.rank) != 1:
        ta_batch_fail(batch, TA_CODE_INVALID_ARG, "input '%.200s' is a scalar of the model and takes one element",
                      port.name)
        return -1
    if port.datatype == DT_BYTES:
        return _wrap_strings(engine, port, batch, input, rank, value)
    if input.nbytes == 0 or data == NULL:
        data = no_bytes
    elif input.memory_type == MEMORY_GPU:
        info = engine.device_info
    elif <uintptr_t>data % port.itemsize:
        if _realign(engine, input) < 0:
            return _no_memory(batch, port)
        data = input.data
    status = ort_create_tensor_with_data(engine.api, info, data, input.nbytes, input.dims, rank, port.element_type,
                                         value)
    return 0 if status == NULL else fail(engine, batch, status)


# A client's bytes may start anywhere in a body; kernels are compiled for naturally aligned elements.
cdef int _realign(const Engine *engine, ta_tensor *input) noexcept nogil:
    cdef ta_slab *slab = ta_slab_lease(engine.pool, input.nbytes)
    if slab == NULL:
        return -1
    memcpy(ta_slab_data(slab), input.data, input.nbytes)
    # Bytes that are not aligned are the request's own; a gathered input stands on a slab already.
    input.data = ta_slab_data(slab)
    input.owner = slab
    input.release = ta_slab_return
    return 0


cdef int _wrap_strings(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *input, int rank,
                       ort_value **value) noexcept nogil:
    cdef int64_t count = elements(input.dims, input.rank)
    cdef int64_t at = 0
    cdef int64_t i
    cdef uint32_t length
    cdef char *to
    cdef ort_status *status
    status = ort_create_tensor(engine.api, engine.allocator, input.dims, rank, port.element_type, value)
    if status != NULL:
        return fail(engine, batch, status)
    for i in range(count):
        if input.nbytes - at < 4:
            break
        memcpy(&length, input.data + at, 4)
        at += 4
        if input.nbytes - at < <int64_t>length:
            break
        status = ort_resized_string_buffer(engine.api, value[0], i, length, &to)
        if status != NULL:
            return fail(engine, batch, status)
        memcpy(to, input.data + at, length)
        at += length
    else:
        if at == input.nbytes:
            return 0
    ta_batch_fail(batch, TA_CODE_INVALID_ARG, "input '%.200s' does not have the %lld strings of its shape", port.name,
                  <long long>count)
    return -1


cdef int lease_output(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *output,
                      ort_value **value) noexcept nogil:
    cdef ort_status *status
    cdef ta_slab *slab
    _set_known_shape(port, batch, output)
    slab = ta_slab_lease(engine.pool, output.nbytes)
    if slab == NULL:
        return _no_memory(batch, port)
    output.data = ta_slab_data(slab)
    output.owner = slab
    output.release = ta_slab_return
    memcpy(output.data, mark, _mark_nbytes(output))
    status = ort_create_tensor_with_data(engine.api, engine.memory_info, output.data, output.nbytes, output.dims,
                                         0 if port.scalar else output.rank, port.element_type, value)
    return 0 if status == NULL else fail(engine, batch, status)


cdef void _set_known_shape(const Port *port, ta_batch *batch, ta_tensor *output) noexcept nogil:
    output.rank = port.rank
    memcpy(output.dims, port.dims, sizeof(output.dims))
    if output.rank and output.dims[0] < 0:
        output.dims[0] = batch.rows
    output.nbytes = nbytes(elements(output.dims, output.rank), port.datatype)


cdef int place_output(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *output,
                      ta_placement *placement, ort_value **value) noexcept nogil:
    cdef ort_status *status
    _set_known_shape(port, batch, output)
    if output.nbytes == 0 or output.nbytes > placement.capacity:
        return 0
    status = ort_create_tensor_with_data(engine.api, engine.device_info, placement.data, output.nbytes, output.dims,
                                         0 if port.scalar else output.rank, port.element_type, value)
    if status != NULL:
        fail(engine, batch, status)
        return -1
    output.data = placement.data
    output.memory_type = MEMORY_GPU
    output.device_id = placement.device_id
    placement.nbytes = output.nbytes
    placement.placed = TA_PLACED
    return 1


cdef bint untouched(const ta_tensor *output) noexcept nogil:
    return output.nbytes > 0 and memcmp(output.data, mark, _mark_nbytes(output)) == 0


cdef size_t _mark_nbytes(const ta_tensor *output) noexcept nogil:
    return <size_t>min(output.nbytes, <int64_t>MARK_NBYTES)


cdef bint is_other_shape(const Engine *engine, const ort_status *status) noexcept nogil:
    cdef const char *message = ort_get_error_message(engine.api, status)
    if strstr(message, OTHER_SHAPE) != NULL or strstr(message, OTHER_SHAPE_OLD) != NULL:
        return True
    return engine.device_info != NULL and strstr(message, OTHER_SIZE) != NULL


cdef int take_output(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *output,
                     ort_value *value) noexcept nogil:
    cdef int result = _read_shape(engine, port, batch, output, value)
    if result == 0:
        if port.datatype == DT_BYTES:
            result = _take_strings(engine, port, batch, output, value)
        else:
            result = _take_bytes(engine, port, batch, output, value)
    if output.owner != value:
        ort_release_value(engine.api, value)
    return result


# Sets rank and dims of `output`. A scalar of the model has the rank of the config: as many dims of 1.
cdef int _read_shape(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *output,
                     ort_value *value) noexcept nogil:
    cdef ort_tensor_info *info = NULL
    cdef size_t rank = 0
    cdef int element_type = 0
    cdef ort_status *status = ort_tensor_type_and_shape(engine.api, value, &info)
    if status != NULL:
        return fail(engine, batch, status)
    status = ort_tensor_element_type(engine.api, info, &element_type)
    if status == NULL:
        status = ort_dimension_count(engine.api, info, &rank)
    if status == NULL and 0 < rank <= TA_MAX_RANK:
        status = ort_dimensions(engine.api, info, output.dims, rank)
    ort_release_tensor_info(engine.api, info)
    if status != NULL:
        return fail(engine, batch, status)
    if element_type != port.element_type or rank > TA_MAX_RANK:
        ta_batch_fail(batch, TA_CODE_INTERNAL, "output '%.200s' has data type %d and %d dimensions, expected data type "
                      "%d and at most %d dimensions", port.name, from_element_type(element_type), <int>rank,
                      port.datatype, TA_MAX_RANK)
        return -1
    output.rank = <int32_t>rank
    if rank == 0 and port.scalar:
        output.rank = port.rank
        memcpy(output.dims, port.dims, sizeof(output.dims))
    return 0


cdef int _take_bytes(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *output,
                     ort_value *value) noexcept nogil:
    cdef void *data = NULL
    cdef ta_slab *slab
    cdef ort_status *status
    output.nbytes = nbytes(elements(output.dims, output.rank), port.datatype)
    if output.nbytes == 0:
        output.data = no_bytes
        return 0
    status = ort_tensor_data(engine.api, value, &data)
    if status != NULL:
        return fail(engine, batch, status)
    if not _is_input(batch, <char *>data):
        output.data = <char *>data
        output.owner = value
        output.release = release_value
        if output.nbytes >= TA_LATER_NBYTES:
            output.release = release_large_value
        return 0
    # An output that is an input of the graph: its bytes end with the batch.
    slab = ta_slab_lease(engine.pool, output.nbytes)
    if slab == NULL:
        return _no_memory(batch, port)
    output.data = ta_slab_data(slab)
    output.owner = slab
    output.release = ta_slab_return
    memcpy(output.data, data, output.nbytes)
    return 0


cdef bint _is_input(ta_batch *batch, char *data) noexcept nogil:
    cdef int i
    for i in range(batch.n_inputs):
        if batch.inputs[i].wanted and batch.inputs[i].data <= data < batch.inputs[i].data + batch.inputs[i].nbytes:
            return True
    return False


# The engine gives all bytes in a row and an offset each. They are read to the end of the slab, then moved down
# one by one behind their length: a string's new place never reaches beyond its old one.
cdef int _take_strings(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *output,
                       ort_value *value) noexcept nogil:
    cdef int64_t count = elements(output.dims, output.rank)
    cdef size_t total = 0
    cdef ta_slab *slab
    cdef ta_slab *scratch
    cdef ort_status *status = ort_string_data_length(engine.api, value, &total)
    cdef int result = 0
    if status != NULL:
        return fail(engine, batch, status)
    if count == 0:
        output.nbytes = 0
        output.data = no_bytes
        return 0
    slab = ta_slab_lease(engine.pool, <int64_t>total + 4 * count)
    if slab == NULL:
        return _no_memory(batch, port)
    output.data = ta_slab_data(slab)
    output.nbytes = <int64_t>total + 4 * count
    output.owner = slab
    output.release = ta_slab_return
    scratch = ta_slab_lease(engine.pool, count * <int64_t>sizeof(size_t))
    if scratch == NULL:
        return _no_memory(batch, port)
    status = ort_string_content(engine.api, value, output.data + 4 * count, total, <size_t *>ta_slab_data(scratch),
                                count)
    if status != NULL:
        result = fail(engine, batch, status)
    elif _frame_strings(output, total, <size_t *>ta_slab_data(scratch), count) < 0:
        ta_batch_fail(batch, TA_CODE_INTERNAL, "output '%.200s' has a string longer than a length field can say",
                      port.name)
        result = -1
    ta_slab_return(scratch)
    return result


cdef int _frame_strings(ta_tensor *output, size_t total, const size_t *offsets, int64_t count) noexcept nogil:
    cdef char *strings = output.data + 4 * count
    cdef char *to = output.data
    cdef size_t length
    cdef uint32_t length_field
    cdef int64_t i
    for i in range(count):
        length = (total if i + 1 == count else offsets[i + 1]) - offsets[i]
        if length > <size_t>0xFFFFFFFF:
            return -1
        length_field = <uint32_t>length
        memcpy(to, &length_field, 4)
        memmove(to + 4, strings + offsets[i], length)
        to += 4 + length
    return 0
