# How tensors go from step to step of an ensemble: made once from its config and the signatures of its steps' models.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport TensorSpec
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.buffer cimport Buffer

# What becomes of a batch dimension on the way from a model, or the client, to the next one.
cdef enum Fit:
    FIT_AS_IS = 0     # both have one, or neither has
    FIT_ADD = 1       # the taker has one: a tensor of its dims becomes one row
    FIT_DROP = 2      # the taker has none: one row of its dims becomes a tensor, if it does not fit as it is

# A tensor's way into a step, or into an output of the ensemble.
cdef class Wire:
    cdef readonly str name           # of the taker's tensor
    cdef readonly int tensor         # number of the ensemble's tensor
    cdef TensorSpec spec             # the taker's
    cdef TensorSpec outside          # an output's own, where the client sees other dims; or None
    cdef int fit                     # Fit
    cdef bint batching               # the taker has a batch dimension

    # `tensor` as the taker has it: its name, its batch dimension. The same bytes.
    cdef Tensor fitted(self, Tensor tensor)
    cdef Tensor _fitted(self, Tensor tensor)

# The decoupled steps that a tensor or a step is behind make its level: what is at level n exists once for each
# response of the n-th decoupled step, and for each response of the earlier ones.
cdef class Step:
    cdef readonly str model_name
    cdef readonly str key            # that its model is served by (core.namespaces)
    cdef readonly int64_t model_version   # -1: the newest
    cdef readonly int number
    cdef readonly tuple inputs       # of Wire
    cdef readonly dict outputs       # name of the model's output -> number of the ensemble's tensor
    cdef readonly int level
    cdef readonly bint decoupled
    # Requests of all requests to the ensemble, where these are limited. Core's own, loop thread.
    cdef readonly int64_t limit      # 0: none
    cdef set open
    cdef object waiting              # deque of those that the limit holds back

# What it takes to make the outputs that one request asks for.
cdef class Selection:
    cdef list levels                 # steps of each level
    cdef list steps                  # all of them
    cdef list takers                 # by number of the tensor: the steps that take it
    cdef list requested              # by number of the step: list of RequestedOutput, None for a step that is left out
    cdef list outputs                # Wires of the outputs, in the order of the signature
    cdef int level                   # of the responses
    cdef bint made                   # a step makes one of the outputs at least
    cdef dict regions                # number of a tensor -> Buffer: its bytes go there, and steps take them from there

cdef class Dataflow:
    cdef readonly tuple steps        # of Step
    cdef readonly int n_tensors
    cdef tuple inputs                # by the ensemble's input: number of its tensor
    cdef tuple outputs               # Wires, by the ensemble's output
    cdef tuple levels                # by number of the tensor
    cdef tuple writers               # by number of the tensor: Step, or None for an input
    cdef readonly bint decoupled
    cdef dict selections             # outputs asked for -> Selection; a bounded number

    # Of a request that fits the ensemble's signature. Unsupported for an output that cannot go where it is to go.
    cdef Selection select(self, InferRequest request)
    cdef Selection _make(self, list asked)

# `tensor`, an input of the ensemble, with the dims that steps see.
cdef Tensor inside(Tensor tensor, TensorSpec spec, bint batching)

# Where the bytes of a tensor are that an engine has put into a region: a view of `region`.
cdef Tensor in_region(Tensor tensor, Buffer region)

# The tensors of one level: those of the request itself, or of one response of a decoupled step.
cdef class Scope:
    cdef Scope above
    cdef int level
    cdef list tensors                # by number; None: not there yet
    cdef bytearray begun             # by number of the step: 1 where it has been asked
    cdef object children             # deque of those not answered yet, in the order of the responses that they are of
    cdef bint closed                 # the decoupled step has sent its last response

    cdef object find(self, int tensor)

# A new one, of an ensemble with so many tensors and steps.
cdef Scope scope_in(Scope above, int n_tensors, int n_steps)

# It is of no use any more: those above and below refer to each other.
cdef int forget(Scope scope) except -1
