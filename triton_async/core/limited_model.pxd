# A model some of whose instances wait for resources of the rate limiter before they begin.

from triton_async.core.model cimport Model

# Loop thread. Other idle instances are tried where one is refused: it may need other resources, or none.
cdef class LimitedModel(Model):
    pass
