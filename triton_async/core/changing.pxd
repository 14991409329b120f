# Instances that come to a model that serves, and leave it.

# Has those of `model.leaving` (core.model.Model) go that have nothing left: no batch, no borrower, and no request that
# they still answer. Loop thread.
cdef int let_instances_go(object model) except -1
