# What the server brings to each step of a sequence beside the request's own inputs, and takes from its response.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport Tensor

# Loop thread. Immutable. The tensors that it gives are shared by all requests; nobody writes to them.
cdef class Injection:
    cdef ModelSignature signature
    cdef Py_ssize_t first_control      # place of the first control among the inputs of the signature
    cdef Py_ssize_t first_state        # of the first state
    cdef Py_ssize_t first_output       # of the first state that is no client's output
    cdef dict places                   # of the states by their outputs' names
    cdef readonly Py_ssize_t n_states
    cdef Py_ssize_t id_place           # of the correlation id among the inputs; -1: the model takes none
    cdef int id_datatype
    cdef list controls                 # by FLAG_SEQUENCE_START | FLAG_SEQUENCE_END: a list of Tensors
    cdef list idle                     # the same for a slot without a request
    cdef list initial                  # states of a first step
    cdef int64_t own_tensors           # of all these, which no request brought
    cdef int64_t own_buffers
    cdef bint copies                   # states are copied whatever their size: their bytes are lent

    # The correlation id as an input, None where the model takes none. Raises InvalidArg, in Triton's words, for one of
    # another kind than the model's.
    cdef Tensor id_tensor(self, object sequence_id)
    # The correlation id of nobody.
    cdef Tensor no_id(self)
    # Whether correlation ids of the model are strings.
    cdef bint takes_text(self) noexcept
    # Completes the slots of a validated request. `states`: Tensors, or None for a first step.
    cdef int inject(self, InferRequest request, Tensor sequence_id, list states) except -1
    # A request that stands for slots without one, beside `leader`: zeros of its shapes, not ready.
    cdef InferRequest padding(self, InferRequest leader)
    # Moves the states of a response to its request. None, or what is wrong with them: none is taken then.
    cdef object take_states(self, InferResponse response)

    cdef Tensor _owned(self, Tensor tensor, Py_ssize_t place)
    cdef str _misfit(self, Tensor tensor, TensorSpec spec)
