"""The interface of schedulers, and what all of them do alike."""

from triton_async.errors import DeadlineExceeded, Unavailable, Unsupported

# Share of the newest execution in the mean.
cdef int64_t MEAN_WEIGHT = 8


cdef class Scheduler:
    """See scheduler.pxd."""

    cpdef int enqueue(self, InferRequest request, int64_t now_ns) except -1:
        raise Unsupported("this scheduler has no enqueue")

    cpdef Batch take(self, object instance, bint idle, int64_t now_ns):
        raise Unsupported("this scheduler has no take")

    cpdef list take_lost(self):
        raise Unsupported("this scheduler has no take_lost")

    cpdef int remove(self, InferRequest request) except -1:
        raise Unsupported("this scheduler has no remove")

    cpdef int requeue(self, list requests) except -1:
        raise Unsupported("this scheduler has no requeue")

    cpdef list expire(self, int64_t now_ns):
        raise Unsupported("this scheduler has no expire")

    cpdef int note_execution(self, int64_t execution_ns) except -1:
        self.longest_execution_ns = max(self.longest_execution_ns, execution_ns)
        if self.mean_execution_ns == 0:
            self.mean_execution_ns = execution_ns
        else:
            self.mean_execution_ns += (execution_ns - self.mean_execution_ns) // MEAN_WEIGHT
        return 0

    cpdef int note_batch(self, int64_t requests, int64_t rows, int64_t execution_ns, int64_t now_ns) except -1:
        return self.note_execution(execution_ns) if execution_ns >= 0 else 0


cpdef object refusal(InferRequest request):
    if request.refusal is not None:
        return request.refusal
    if request.late:
        return DeadlineExceeded("Request deadline expired")
    return Unavailable("Request timeout expired")
