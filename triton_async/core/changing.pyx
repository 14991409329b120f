"""Changes the instances of a model that serves, which notices nothing else of it (in-place updates). Loop thread."""

from triton_async.core.batcher cimport DynamicBatcher
from triton_async.core.instances cimport DESK_BORROWED, DESK_KEPT, Instance
from triton_async.core.model cimport Model
from triton_async.infer.batch cimport Batch, ta_batch_revoke
from triton_async.infer.request cimport AWAITS_EXECUTION, InferRequest


def change_instances(Model model, config, list instances, list gone, on_gone):
    """`instances`: all that serve from now on, in order; those that are new are READY and idle. `gone`: those of the
    model that leave it: they get no batch any more, finish what they have begun, and `on_gone(instance)` is called,
    once for each, when they have nothing. `config`: that of all this, and else what the model has. Not for a model
    with sequences (SequenceModel.change_instances), and not for one that waits for the rate limiter.
    """
    cdef Instance instance
    cdef list new = [instance for instance in instances if instance not in model.instances]
    model.config = config
    model.instances = instances
    model.idle[:0] = new[::-1]
    for instance in gone:
        model.leaving[instance] = on_gone
        if instance.desk == DESK_BORROWED:
            instance.wanted = True
        elif instance in model.idle:
            instance.desk = DESK_KEPT
            model.idle.remove(instance)
        take_back(model, instance.out[1:])
    if isinstance(model.scheduler, DynamicBatcher) and (<DynamicBatcher>model.scheduler).auto is not None:
        (<DynamicBatcher>model.scheduler).auto.instances = max(len(instances), 1)
    let_instances_go(model)
    model.reactor.call_turn(model)


cdef int take_back(object model, list ahead) except -1:
    cdef Model found = <Model>model
    cdef Batch batch
    cdef InferRequest request
    # What was taken last goes back first.
    for batch in reversed(ahead):
        if not ta_batch_revoke(&batch.c):
            continue
        for request in batch.requests:
            request.batch = None
            request.awaits &= ~AWAITS_EXECUTION
        found.scheduler.requeue(list(batch.requests))
    return 0


cdef int let_instances_go(object model) except -1:
    cdef Model found = <Model>model
    cdef Instance instance
    cdef set busy = set(found.late.values())
    for instance in list(found.leaving):
        if instance.in_flight or instance.desk == DESK_BORROWED or instance in busy:
            continue
        if instance in found.idle:
            found.idle.remove(instance)
        instance.desk = DESK_KEPT
        found.leaving.pop(instance)(instance)
    return 0
