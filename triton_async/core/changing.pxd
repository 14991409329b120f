# Instances that come to a model that serves, and leave it.

# Has those of `model.leaving` (core.model.Model) go that have nothing left: no batch, no borrower, and no request that
# they still answer. Loop thread.
cdef int let_instances_go(object model) except -1

# Of these batches, which instances of the model have been handed, the oldest first, what has not begun goes back to its
# scheduler. They come back, empty, through their instances. Loop thread.
cdef int take_back(object model, list ahead) except -1
