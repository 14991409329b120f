# What happened to one request, when. Complete, and handed to whoever records it, once nobody holds it any more.

from libc.stdint cimport int64_t

cdef enum TraceLevel:        # bits
    TRACE_TIMESTAMPS = 1
    TRACE_TENSORS = 2

# Made by core when a request is submitted; held by the request, and by the front-end until its answer has left. Loop
# thread, but for the end: the last reference may go on any thread that has the GIL.
cdef class Trace:
    cdef readonly int64_t id
    cdef readonly int64_t parent_id      # of the trace for whose sake the request was made; 0: a client's
    cdef readonly str model_name
    cdef readonly int64_t model_version
    cdef readonly str request_id
    cdef readonly int levels             # TraceLevel bits
    cdef readonly list events            # (name, CLOCK_MONOTONIC in ns), in no order
    cdef readonly list tensors           # (activity, Tensor): their leases end with the trace
    cdef readonly object group           # of whoever records: traces of one group are counted together
    cdef readonly object span            # the exporter's own, or None
    cdef object done                     # called once with the record: see Trace.record

    # Something happened at `at_ns`; 0: it did not happen. Nothing unless timestamps are asked for.
    cdef int note(self, str name, int64_t at_ns) except -1
    # The same of tensors that exist now; nothing unless these are asked for.
    cdef int note_tensors(self, str activity, list tensors) except -1
