"""Hands batches to instances while an allocation fails."""

from cpython.ref cimport Py_DECREF

from triton_async.backends.base cimport RequestInstance
from triton_async.infer.batch cimport Batch, closed_batch
from triton_async.infer.event cimport ta_message
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature

import _testcapi

cdef int posted = 0


# In the place of core.
cdef void _post(void *context, ta_message *message) noexcept nogil:
    global posted
    with gil:
        posted += 1
        Py_DECREF(<object>message.owner)


def submit(RequestInstance instance, ModelSignature signature, list requests, int at):
    """Runs new requests as one batch, number `at` of the allocations failing: whether the batch has failed, whether its
    requests are answered one by one, and how many answers and releases there were."""
    global posted
    cdef InferRequest request
    cdef Batch batch
    for request in requests:
        signature.validate(request)
    batch = closed_batch(signature, requests)
    batch.c.by_request = 1
    instance.post = _post
    posted = 0
    _testcapi.set_nomemory(at, at + 1)
    instance._submit_python(&batch.c)
    _testcapi.remove_mem_hooks()
    return batch.c.failed != 0, batch.c.by_request != 0, posted
