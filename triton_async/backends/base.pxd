# The backend contract: what core asks of an engine. Implementations live beside this file, blind to each other.

from triton_async.infer.batch cimport ta_batch
from triton_async.memory.slab cimport SlabPool

# One engine execution context of a loaded model version, run by one OS thread.
# Made, warmed up and closed on that thread too; never used by two threads at once.
cdef class ModelInstance:
    cdef readonly str name               # Triton's instance name, `<group>_<i>`

    # Runs one closed batch: gather inputs, run, fill the wanted outputs (or ta_batch_fail), set
    # compute_input_end_ns, compute_output_start_ns and compute_end_ns. Instance thread, WITHOUT the GIL.
    # An output that is wanted and not filled is an error of the batch, made by core.
    cdef void execute(self, ta_batch *batch) noexcept nogil

# An instance whose engine is called from Python.
cdef class PythonInstance(ModelInstance):
    cdef SlabPool pool
    cdef int _execute_python(self, ta_batch *c) noexcept
