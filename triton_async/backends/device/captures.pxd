# CUDA graphs of a slot, captured and destroyed. Instance thread, with the GIL, while the slot is free.

from triton_async.backends.device.slots cimport Slot
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.cuda cimport ta_cuda_stream

# Runs the engine over zeros in `shape` (GraphShape), waits, and captures the same run as a graph of the slot, number
# `index`. Raises what the engine or CUDA says against it; the slot is then as it was.
cdef int capture(Slot *slot, int index, shape, engine, devices, ModelSignature signature,
                 ta_cuda_stream stream) except -1

# Destroys the slot's graphs, and tells the engine.
cdef int drop(Slot *slot, int index, engine, devices) except -1
