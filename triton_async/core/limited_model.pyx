"""A loaded model version whose instances need different resources of the rate limiter. Loop thread."""

from libc.stdint cimport int64_t

from triton_async.core.instances cimport Instance
from triton_async.core.model cimport Model, is_away
from triton_async.infer.batch cimport Batch


cdef class LimitedModel(Model):
    """See Model; `limit` has to be called."""

    cdef int64_t _dispatch(self, int64_t now_ns, list here=None, int64_t until_ns=0) except -1:
        cdef Instance instance
        cdef Batch batch
        cdef bint available
        self._expire(now_ns)
        if self.scheduler.pending:
            available = self.available
            for instance in sorted(self.idle, key=_due):
                if available and is_away(instance):
                    continue
                batch = self._take(instance, True, now_ns)
                if batch is not None:
                    self.idle.remove(instance)
                    self._hand_over(instance, batch)
            self._expire(now_ns)
        self._arm()
        return now_ns


def _due(Instance instance):
    return 0 if instance.claim is None else instance.claim.due()
