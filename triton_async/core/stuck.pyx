"""Executions that run for much longer than any of their model did, and what they wait for. Loop thread."""

from libc.stdint cimport int64_t

from triton_async.core.instances cimport Instance
from triton_async.core.model cimport Model
from triton_async.core.waits cimport Asking
from triton_async.infer.batch cimport TA_BEGUN, Batch, ta_batch_phase
from triton_async.infer.request cimport InferRequest

from triton_async.defines import STUCK_AFTER_NS, STUCK_FACTOR, STUCK_FIRST_NS

cdef int64_t AFTER_NS = STUCK_AFTER_NS
cdef int64_t FACTOR = STUCK_FACTOR
cdef int64_t FIRST_NS = STUCK_FIRST_NS


cpdef list stuck_executions(Model model, int64_t now_ns):
    cdef int64_t longest_ns = model.scheduler.longest_execution_ns
    cdef int64_t limit_ns = FIRST_NS
    cdef int64_t start_ns
    cdef Instance instance
    cdef Batch batch
    cdef InferRequest request
    cdef list found = []
    if longest_ns:
        limit_ns = max(AFTER_NS, min(longest_ns, (1 << 62) // FACTOR) * FACTOR)
    for instance in model.instances:
        for batch in instance.out:
            # The instance's thread wrote the time when the batch began, and does not change it.
            start_ns = batch.c.compute_start_ns
            if ta_batch_phase(&batch.c) != TA_BEGUN or start_ns == 0 or now_ns - start_ns <= limit_ns:
                continue
            ids = [request.id for request in batch.requests if request.id]
            found.append((instance.name, start_ns, ids, _asked(batch)))
    return found


cdef list _asked(Batch batch):
    cdef InferRequest request
    cdef Asking inner
    cdef set names = set()
    cdef Instance instance = <Instance>batch.instance
    if instance is not None and instance.runs is not None:
        names.add(instance.runs.asked())
    for request in batch.requests:
        if request.inner is not None:
            for inner in request.inner:
                if inner.target is not None:
                    names.add(inner.target.signature.model_name)
    return sorted(names)
