# What the engine does for libtritonserver.so (ta_backend_calls), and the library's table for the engine.

from triton_async.backends.capi.objects cimport TRITONSERVER_Error, ta_backend_side, ta_execution

# The table, once the library was loaded; with it the engine's functions are registered. Raises InternalError when it
# cannot be loaded. Any thread.
cdef const ta_backend_side *side_table() except NULL

# Makes the requests of an execution LIVE: each gets a ResponseFactory. Instance thread, which runs it, no GIL.
cdef void go_live(ta_execution *execution) noexcept nogil

# The ServerError that an error of a library stands for, which is deleted. None for NULL. `what`: put in front.
cdef object taken_error(TRITONSERVER_Error *error, str what=*)
