"""Putting batches of unequal requests together and taking their outputs apart; the work is in csrc/assembly.c."""

from libc.stdint cimport int32_t, int64_t

from triton_async.codes cimport TA_CODE_INTERNAL, TA_CODE_INVALID_ARG
from triton_async.infer.batch cimport ta_assembly, ta_batch, ta_tensor
from triton_async.infer.gather cimport ta_batch_fail
from triton_async.infer.plan cimport (
    TA_INPUT_PADDED,
    TA_INPUT_PLAIN,
    TA_INPUT_RAGGED,
    TA_OUTPUT_SCATTERED,
    BatchPlan,
    ta_input_plan,
    ta_plan,
)
from triton_async.infer.request cimport InferRequest
from triton_async.memory.slab cimport ta_slab_pool

from triton_async.errors import InternalError
from triton_async.infer.signature import format_dims

cdef extern from "assembly.h":
    ta_assembly *ta_assembly_init(void *memory, const ta_plan *plan, ta_batch *batch) noexcept nogil
    int ta_assembly_shape(ta_batch *batch, int32_t index) noexcept nogil
    int ta_assemble(ta_batch *batch, ta_slab_pool *pool, int32_t *failed) noexcept nogil
    int ta_split_output(ta_batch *batch, int32_t index) noexcept nogil
    void ta_assembly_release(ta_assembly *assembly) noexcept nogil


cdef int lay_out(BatchPlan plan, ta_batch *batch, list requests, void *memory) except -1:
    cdef ta_assembly *assembly = ta_assembly_init(memory, &plan.c, batch)
    cdef const ta_input_plan *input
    cdef InferRequest request
    cdef int64_t size
    cdef int n_lengths = plan.c.n_lengths
    cdef int i, length
    batch.assembly = assembly
    for i, request in enumerate(requests):
        assembly.rows[i] = request.rows
        for length in range(n_lengths):
            size = plan.size_of(request, length)
            assembly.lengths[i * n_lengths + length] = size
            assembly.padded[length] = max(assembly.padded[length], size)
    for length in range(n_lengths):
        assembly.padded[length] = plan.padded(length, assembly.padded[length])
    for i in range(batch.n_inputs):
        input = &plan.c.inputs[i]
        if input.kind == TA_INPUT_PLAIN or (
            not batch.inputs[i].wanted and (input.kind == TA_INPUT_PADDED or input.kind == TA_INPUT_RAGGED)
        ):
            continue
        if not batch.inputs[i].wanted:
            batch.inputs[i].wanted = 1
            batch.inputs[i].n_segments = 1
        if ta_assembly_shape(batch, i) < 0:
            raise InternalError(f"input '{plan.input_names[i]}' of a batch of model '{plan.model}' is too large")
    return 0


cdef void assemble(ta_batch *batch, ta_slab_pool *pool) noexcept nogil:
    cdef int32_t failed = 0
    cdef int result = ta_assemble(batch, pool, &failed)
    if result != 0:
        with gil:
            _refuse_input(batch, failed, result)


cdef void split_output(ta_batch *batch, int index) noexcept nogil:
    cdef int result
    if batch.outputs[index].parts == NULL or not batch.outputs[index].wanted or batch.failed:
        return
    result = ta_split_output(batch, index)
    if result != 0:
        with gil:
            _refuse_output(batch, index, result)


cdef void split_outputs(ta_batch *batch) noexcept nogil:
    cdef int i
    if batch.by_request:
        return
    for i in range(batch.n_outputs):
        split_output(batch, i)


cdef void release(ta_batch *batch) noexcept nogil:
    ta_assembly_release(batch.assembly)


cdef int _refuse_input(ta_batch *batch, int index, int result) noexcept:
    cdef BatchPlan plan = <BatchPlan>batch.assembly.plan.owner
    name = plan.input_names[index]
    if result == TA_TOO_MANY:
        text = f"input '{name}' of model '{plan.model}' tells of more elements than its data type can count"
        return _fail(batch, TA_CODE_INVALID_ARG, text)
    return _fail(batch, TA_CODE_INTERNAL, f"no memory for input '{name}' of a batch of model '{plan.model}'")


cdef int _refuse_output(ta_batch *batch, int index, int result) noexcept:
    cdef BatchPlan plan = <BatchPlan>batch.assembly.plan.owner
    cdef ta_tensor *c = &batch.outputs[index]
    cdef int i
    of = f"output '{plan.output_names[index]}' of model '{plan.model}'"
    if result == TA_OTHER_SHAPE:
        shape = format_dims([c.dims[i] for i in range(c.rank)])
        if plan.c.outputs[index].kind == TA_OUTPUT_SCATTERED:
            text = (f"failed to split {of} in responses: it has shape {shape}, which are not the elements that "
                    "'batch_output' expects for the shapes of the requests")
        else:
            text = (f"failed to split {of} in responses: it has shape {shape}, which are not {batch.rows} rows padded "
                    "as the inputs are; 'outputs' of the model's padding says that it has their lengths")
    elif result == TA_BAD_STRINGS:
        text = f"{of} has broken string elements"
    else:
        text = f"no memory for {of} of a batch"
    return _fail(batch, TA_CODE_INTERNAL, text)


cdef int _fail(ta_batch *batch, int32_t code, str text) noexcept:
    shown = text.encode("utf-8", "replace")
    ta_batch_fail(batch, code, "%.1000s", <const char *>shown)
    return 0
