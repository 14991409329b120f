"""Captures runs of an engine as CUDA graphs, one for each shape and slot. Instance thread."""

from libc.stdint cimport int64_t

from triton_async.backends.device.slots cimport Graph, Slot, add_graph, free_graph, set_output
from triton_async.datatypes cimport elements, nbytes
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport TA_MAX_RANK
from triton_async.memory.cuda cimport cuda_api, ta_cuda_describe, ta_cuda_graph, ta_cuda_stream

import gc

from triton_async.backends.device.engine import DeviceTensor
from triton_async.errors import InternalError, ServerError


# Captures under way, over all instances, and whether garbage was collected before the first of them. Under the GIL.
cdef int _capturing = 0
cdef bint _collecting = False


cdef int capture(Slot *slot, int index, shape, engine, devices, ModelSignature signature,
                 ta_cuda_stream stream) except -1:
    cdef size_t handle = <size_t>stream
    inputs = [_tensor(slot, i, spec, shape) for i, spec in enumerate(signature.inputs)]
    for tensor in inputs:
        _check(cuda_api().memset_async(tensor.address, 0, tensor.nbytes, stream))
    # Once plainly, as engines want it.
    outputs = engine.enqueue(index, inputs, handle, <size_t>slot.ran)
    _check(cuda_api().stream_synchronize(stream))
    if None in outputs:
        raise InternalError("the shape of an output is known only after the run")
    captured, outputs = _captured(index, inputs, engine, devices, handle)
    try:
        if len(outputs) != len(signature.outputs):
            raise InternalError(f"its engine has {len(outputs)} outputs instead of {len(signature.outputs)}")
        _add(slot, shape, inputs, outputs, captured)
    except BaseException:
        devices.destroy_graph(captured)
        raise
    return 0


cdef tuple _captured(int index, list inputs, engine, devices, size_t handle):
    _stop_collecting()
    try:
        devices.begin_capture(handle)
        try:
            outputs = engine.enqueue(index, inputs, handle, 0)
        except BaseException:
            _end_failed(devices, handle)
            raise
        return devices.end_capture(handle), outputs
    finally:
        _collect_again()


# A finaliser that frees device memory would end a capture, whichever thread's allocations set it off.
cdef int _stop_collecting() except -1:
    global _capturing, _collecting
    if _capturing == 0:
        _collecting = gc.isenabled()
        gc.disable()
    _capturing += 1
    return 0


cdef int _collect_again() except -1:
    global _capturing
    _capturing -= 1
    if _capturing == 0 and _collecting:
        gc.enable()
    return 0


cdef int drop(Slot *slot, int index, engine, devices) except -1:
    trouble = None
    while slot.n_graphs:
        slot.n_graphs -= 1
        handle = <size_t>slot.graphs[slot.n_graphs].handle
        free_graph(&slot.graphs[slot.n_graphs])
        try:
            devices.destroy_graph(handle)
        except ServerError as error:
            trouble = error
    engine.drop_captures(index)
    if trouble is not None:
        raise trouble
    return 0


cdef _tensor(const Slot *slot, int i, TensorSpec spec, shape):
    cdef int64_t[TA_MAX_RANK] c_dims
    cdef int rank = 0
    dims = shape.dims[i] if shape.rows == 0 else (shape.rows, *shape.dims[i])
    if len(dims) > TA_MAX_RANK:
        raise InternalError(f"input '{spec.name}' has more than {TA_MAX_RANK} dimensions")
    for dim in dims:
        c_dims[rank] = dim
        rank += 1
    return DeviceTensor(slot.inputs[i], tuple(dims), nbytes(elements(c_dims, rank), spec.datatype))


cdef int _add(Slot *slot, shape, list inputs, outputs, captured) except -1:
    cdef Graph *graph = add_graph(slot, len(inputs), len(outputs))
    cdef int i
    cdef int at = 0
    graph.handle = <ta_cuda_graph><size_t>captured
    graph.rows = shape.rows
    graph.least_rows = shape.least_rows
    try:
        for i in range(len(inputs)):
            graph.ranks[i] = len(inputs[i].dims)
            graph.nbytes[i] = inputs[i].nbytes
            for dim in inputs[i].dims:
                graph.dims[at] = dim
                at += 1
        for i in range(len(outputs)):
            set_output(&graph.outputs[i], outputs[i])
    except BaseException:
        slot.n_graphs -= 1
        free_graph(graph)
        raise
    return 0


def _end_failed(devices, size_t stream):
    try:
        devices.destroy_graph(devices.end_capture(stream))
    except ServerError:
        pass  # it was invalidated, by what is raised already


cdef int _check(int result) except -1:
    cdef char[256] text
    if result:
        ta_cuda_describe(cuda_api(), result, text, sizeof(text))
        raise InternalError(text.decode("utf-8", "replace"))
    return 0
