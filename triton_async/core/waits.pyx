"""Who waits for whom among requests that are made for the sake of others. Loop thread.

A node is an execution (Batch), or a request which is answered by others than its execution. It has needs: for each
request that it waits for, the nodes one of which has to come to its end. What is in no cycle of needs comes to its end
by itself. Before a request is taken all nodes do, so a cycle can only be closed by the request at hand.
"""

from triton_async.core.instances cimport Instance
from triton_async.infer.batch cimport TA_BEGUN, Batch, ta_batch_phase
from triton_async.infer.request cimport (
    AWAITS_EXECUTION,
    REQUEST_NEW,
    REQUEST_QUEUED,
    InferRequest,
)


cdef class Asking(ResponseSink):
    """See waits.pxd."""

    cdef int begun(self) except -1:
        return 0

    cdef bint unwanted(self) noexcept:
        return False

    cdef list alternatives(self):
        cdef InferRequest request = self.request
        cdef Asking other
        if request.state == REQUEST_NEW or request.state == REQUEST_QUEUED:
            return self.target.holders_of(request)
        if request.inner is not None:
            for other in request.inner:
                if not other.held:
                    return [request]
        return [request.batch] if request.awaits & AWAITS_EXECUTION else None


cdef int depth_of(InferRequest request) noexcept:
    return (<Asking>request.sink).depth if isinstance(request.sink, Asking) else 0


# The needs of a node: a list of lists.
cdef list _needs_of(object node):
    cdef list needs = []
    cdef InferRequest request
    if isinstance(node, Batch):
        for request in (<Batch>node).requests:
            _add_needs(needs, request, True)
        return needs
    request = <InferRequest>node
    _add_needs(needs, request, False)
    if request.awaits & AWAITS_EXECUTION:
        needs.append([request.batch])
    return needs


# Those of the requests that the execution of `request` waits for, or of those that it does not wait for.
cdef int _add_needs(list needs, InferRequest request, bint held) except -1:
    cdef Asking asking
    cdef list alternatives
    if request.inner is not None:
        for asking in request.inner:
            if asking.held == held:
                alternatives = asking.alternatives()
                if alternatives is not None:
                    needs.append(alternatives)
    return 0


cdef list holders_among(list instances):
    cdef list found = []
    cdef dict turns = {}
    cdef Instance instance
    cdef Batch batch
    for instance in instances:
        batch = <Batch>instance.out[0] if instance.out else None
        if batch is not None and ta_batch_phase(&batch.c) != TA_BEGUN:
            batch = None
        turn = None if instance.engine is None else instance.engine.turn
        if turn is not None:
            # What asks others is what has the turn; else it comes to its end.
            if batch is not None and _asks(batch):
                turns[turn] = batch
            else:
                turns.setdefault(turn)
        elif batch is None:
            return None
        else:
            found.append(batch)
    for held in turns.values():
        if held is None:
            return None
        found.append(held)
    return found or None


# Whether an execution has asked other models, and waits for them.
cdef bint _asks(Batch batch) noexcept:
    cdef InferRequest request
    for request in batch.requests:
        if request.inner is not None:
            return True
    return False


cdef list executions_behind(list alternatives):
    cdef set seen = set()
    cdef list left = list(alternatives or ())
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            for need in _needs_of(node):
                left.extend(need)
    return [node for node in seen if isinstance(node, Batch)]


cdef bint goes_on(list alternatives) except -1:
    cdef dict nodes = {}
    cdef list left
    cdef set ending = set()
    cdef bint changed = True
    if alternatives is None:
        return True
    left = list(alternatives)
    while left:
        node = left.pop()
        if node in nodes:
            continue
        needs = nodes[node] = _needs_of(node)
        if not needs and node in alternatives:
            return True
        for need in needs:
            left.extend(need)
    while changed:
        changed = False
        for node, needs in nodes.items():
            if node not in ending and all([any([other in ending for other in need]) for need in needs]):
                ending.add(node)
                changed = True
    return any([node in ending for node in alternatives])
