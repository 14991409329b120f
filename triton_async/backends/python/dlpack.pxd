# Tensors in GPU memory as DLPack capsules, in both directions. Any thread with the GIL.

from triton_async.infer.tensor cimport Tensor

# Takes a capsule named "dltensor" over: a Tensor of MEMORY_GPU called `name`, whose lease ends with its producer's
# deleter. The capsule is used up. ValueError, in words for the model's author, for what is not C-contiguous, has a type
# that no tensor has, or is on no CUDA GPU; the capsule is as before then. What its producer still computes on the
# legacy default stream need not be there yet.
cdef Tensor take_capsule(str name, object capsule)

# A capsule over a Tensor of MEMORY_GPU, which its consumer, or its end, lets go. The bytes are the lease's: whoever
# takes it sees them unchanged and must not write to them.
cdef object make_capsule(Tensor tensor)
