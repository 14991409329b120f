# Executions that run for much longer than any of their model did.

from libc.stdint cimport int64_t

from triton_async.core.model cimport Model

# Of a model: (instance's name, begin in ns, ids of its requests, sorted names of the models that it asked and that have
# not answered) of each. Loop thread; no clock: `now_ns` is an argument.
cpdef list stuck_executions(Model model, int64_t now_ns)
