# Executions that run for much longer than any of their model did, or for longer than an unload waits for them.

from libc.stdint cimport int64_t

from triton_async.core.model cimport Model
from triton_async.core.servable cimport Servable

# Of a model: (instance's name, begin in ns, ids of its requests, sorted names of the models that it asked and that have
# not answered) of each. Loop thread; no clock: `now_ns` is an argument.
cpdef list stuck_executions(Model model, int64_t now_ns)

# What its unload waits for, as "waits for ...". Loop thread.
cpdef str holding(Servable model)

# Has the engines of instances that have not ended what they execute, or answer, give it up (ModelInstance.give_up).
# Loop thread.
cpdef int give_up(Servable model, str reason) except -1
