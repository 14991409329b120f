"""Executions that run for much longer than any of their model did, and what they wait for. Loop thread."""

from libc.stdint cimport int64_t

from triton_async.core.instances cimport Instance
from triton_async.core.model cimport Model
from triton_async.core.servable cimport Servable
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


cpdef str holding(Servable model):
    cdef list executing, answering
    if isinstance(model, Model):
        executing, answering = _busy(<Model>model)
        if executing:
            return f"waits for the execution on {_named(executing)} to end"
        if answering:
            return f"waits for responses of {_named(answering)}"
    if model.in_flight or model.holds:
        return "waits for its requests to end"
    return "waits for its instances to be freed"


cpdef int give_up(Servable model, str reason) except -1:
    cdef Instance instance
    cdef list executing, answering
    if not isinstance(model, Model):
        return 0
    executing, answering = _busy(<Model>model)
    for instance in executing + answering:
        if instance.engine is not None:
            instance.engine.give_up(reason)
    return 0


# Instances that execute, and those that only have to answer what they have executed.
cdef tuple _busy(Model model):
    cdef Instance instance
    cdef list every = [*model.instances, *model.leaving]
    cdef set late = set(model.late.values())
    executing = [instance for instance in every if instance.out]
    return executing, [instance for instance in every if instance in late and not instance.out]


cdef str _named(list instances):
    cdef Instance instance
    names = ", ".join(sorted([f"'{instance.name}'" for instance in instances]))
    return f"instance {names}" if len(instances) == 1 else f"instances {names}"
