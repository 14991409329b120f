# One ONNX Runtime session: a loaded graph with its weights and thread pool.

cimport cython

from triton_async.backends.onnxruntime.api cimport (
    Environment,
    Library,
    ort_memory_info,
    ort_run_options,
    ort_session,
)


# Immutable once made; any number of threads may run it at the same time.
@cython.final
cdef class Session:
    cdef Library library
    cdef Environment environment          # must outlive the session
    cdef ort_session *session
    cdef tuple run_entries                # (key, value) of the options of its runs
    cdef readonly int device              # GPU that it runs on, -1: CPU
    cdef public bint bounded              # the shapes of a request bound how long it runs, on a CPU without providers
    cdef ort_memory_info *device_info     # memory of that GPU; NULL on the CPU
    cdef readonly tuple inputs            # of config TensorInfo, in the model's order
    cdef readonly tuple outputs
    cdef readonly tuple initializers      # inputs that the model has a default for

    # Options for the runs of one instance, which releases them.
    cdef ort_run_options *make_run_options(self) except NULL
    cdef tuple _describe(self, int what)
