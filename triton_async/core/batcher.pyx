"""The dynamic batcher (Triton's dynamic_batching), and the default scheduler as its case of one request."""

cimport cython

from triton_async.core.queue cimport RequestQueue
from triton_async.infer.batch cimport Batch, compatible
from triton_async.infer.request cimport REQUEST_RUNNING, InferRequest
from triton_async.infer.signature cimport ModelSignature


@cython.final
cdef class DynamicBatcher:
    """`dynamic_batching`: config DynamicBatching, or None for one execution per request."""

    def __init__(self, ModelSignature signature, RequestQueue queue, dynamic_batching=None):
        self.signature = signature
        self.queue = queue
        self.max_rows = max(signature.max_batch_size, 1)
        self.merging = dynamic_batching is not None and signature.max_batch_size > 0
        self.preferred = frozenset()
        self.max_preferred = self.max_rows
        if self.merging:
            self.preferred = frozenset(dynamic_batching.preferred_batch_sizes)
            self.delay_ns = dynamic_batching.max_queue_delay_us * 1000
            if self.preferred:
                self.max_preferred = max(self.preferred)

    cpdef int enqueue(self, InferRequest request, int64_t now_ns) except -1:
        return self.queue.push(request, now_ns)

    cpdef Batch take(self, int64_t now_ns, bint idle):
        cdef list waiting
        cdef list taken
        cdef InferRequest request
        cdef Batch batch
        cdef int64_t count
        self.wait_until_ns = 0
        if self.queue.size == 0:
            return None
        if not self.merging:
            count = 1
        else:
            # One more than can be taken shows whether the batch is held up by a request that does not fit.
            waiting = self.queue.peek(self.max_rows + 1)
            count = self._choose(waiting, now_ns, idle)
            if count == 0:
                return None
        taken = self.queue.pop(count)
        for request in taken:
            request.state = REQUEST_RUNNING
        try:
            batch = Batch(self.signature)
            for request in taken:
                batch.add(request)
            batch.close()
        except BaseException:
            self.lost = taken
            raise
        return batch

    cpdef list take_lost(self):
        cdef list lost = self.lost
        self.lost = None
        return lost or []

    # How many of `waiting` make the next batch; 0 when it is better to wait.
    cdef int64_t _choose(self, list waiting, int64_t now_ns, bint idle) except -1:
        cdef InferRequest first = <InferRequest>waiting[0]
        cdef InferRequest request
        cdef int64_t rows = 0
        cdef int64_t best = 0          # requests up to the last preferred size
        cdef int64_t count = 0
        cdef int64_t oldest_ns = first.queue_start_ns
        cdef bint saturated = False    # the next request does not fit
        for request in waiting:
            if rows + request.rows > self.max_rows or count >= self.max_rows or not compatible(first, request):
                saturated = True
                break
            rows += request.rows
            count += 1
            oldest_ns = min(oldest_ns, request.queue_start_ns)
            if rows in self.preferred:
                best = count
        saturated = saturated or rows >= self.max_preferred
        if best and (saturated or idle):
            return best
        if saturated:
            return count
        if not idle:
            return 0
        if now_ns - oldest_ns >= self.delay_ns:
            return count
        self.wait_until_ns = oldest_ns + self.delay_ns
        return 0
