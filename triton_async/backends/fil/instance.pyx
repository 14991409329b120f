"""Instances: a batch is gathered, walked through the forest and its answers handed over, all without the GIL."""

cimport cython
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from triton_async.backends.base cimport ModelInstance
from triton_async.backends.fil.forest cimport (
    Forest,
    ta_forest_run,
    ta_forest_scratch_nbytes,
    ta_forest_shap,
)
from triton_async.codes cimport TA_CODE_INTERNAL, TA_CODE_INVALID_ARG
from triton_async.infer.batch cimport ta_batch, ta_tensor
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.gather cimport ta_batch_fail, ta_gather
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.slab cimport SlabPool, ta_slab, ta_slab_data, ta_slab_lease, ta_slab_return


# __dealloc__ uses the fields.
@cython.final
@cython.no_gc_clear
cdef class FilInstance(ModelInstance):
    """An instance of the model whose answers `forest` gives, and whose contributions `shap`. `signature` was checked
    against them at load.
    """

    def __init__(self, str name, Forest forest, Forest shap, ModelSignature signature, SlabPool pool):
        cdef int64_t nbytes
        ModelInstance.__init__(self, name)
        self.any_thread = True
        self.forest = forest
        self.shap = shap
        self.pool = pool
        self.output = self.shap_output = -1
        for index, spec in enumerate(signature.outputs):
            if spec.name == "treeshap_output":
                self.shap_output = index
            else:
                self.output = index
            shape = spec.dims if spec.reshape is None else spec.reshape
            # Without a batch dimension the first one is that of rows. FIL leaves dims of 1 out of its answers.
            shape = tuple(dim for dim in shape[signature.max_batch_size == 0:] if dim != 1)
            self.rank[index] = len(shape)
            for i, dim in enumerate(shape):
                self.dims[index][i] = dim
        nbytes = ta_forest_scratch_nbytes(&forest.c)
        if shap is not None:
            nbytes = max(nbytes, ta_forest_scratch_nbytes(&shap.c))
        self.scratch = malloc(nbytes)
        if self.scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.scratch)

    cdef void execute(self, ta_batch *batch) noexcept nogil:
        cdef ta_tensor *input = &batch.inputs[0]
        cdef int64_t row_nbytes = <int64_t>self.forest.c.n_columns * (8 if self.forest.double_rows else 4)
        cdef int64_t rows
        if ta_gather(input, self.pool.pool) < 0:
            ta_batch_fail(batch, TA_CODE_INTERNAL, "no memory to gather the inputs of a batch")
            return
        rows = input.nbytes // row_nbytes
        if rows * row_nbytes != input.nbytes or (input.rank > 1 and input.dims[input.rank - 1]
                                                 != self.forest.c.n_columns):
            ta_batch_fail(batch, TA_CODE_INVALID_ARG, "input 'input__0' has rows of another length than the %d "
                          "features of the model", <int>self.forest.c.n_columns)
            return
        batch.compute_input_end_ns = ta_now_ns()
        if self.output >= 0 and batch.outputs[self.output].wanted:
            if self._lease(batch, self.output, rows, self.forest.c.answer_width,
                           8 if self.forest.double_answers else 4) < 0:
                return
            if rows:
                ta_forest_run(&self.forest.c, input.data, self.forest.double_rows, rows,
                              batch.outputs[self.output].data, self.forest.double_answers, self.scratch)
        if self.shap_output >= 0 and batch.outputs[self.shap_output].wanted:
            if self._lease(batch, self.shap_output, rows,
                           <int64_t>self.shap.c.n_outputs * (self.shap.c.n_columns + 1), 4) < 0:
                return
            if rows:
                ta_forest_shap(&self.shap.c, input.data, self.shap.double_rows, rows,
                               <float *>batch.outputs[self.shap_output].data, self.scratch)
        batch.compute_output_start_ns = batch.compute_end_ns = ta_now_ns()

    cdef int _lease(self, ta_batch *batch, int index, int64_t rows, int64_t width, int64_t itemsize) noexcept nogil:
        cdef ta_tensor *output = &batch.outputs[index]
        cdef ta_slab *slab = ta_slab_lease(self.pool.pool, rows * width * itemsize)
        if slab == NULL:
            ta_batch_fail(batch, TA_CODE_INTERNAL, "no memory for the outputs of a batch")
            return -1
        output.data = ta_slab_data(slab)
        output.nbytes = rows * width * itemsize
        output.rank = self.rank[index] + 1
        output.dims[0] = rows
        memcpy(&output.dims[1], &self.dims[index][0], self.rank[index] * sizeof(int64_t))
        output.owner = slab
        output.release = ta_slab_return
        return 0
