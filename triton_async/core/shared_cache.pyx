"""The response cache that other processes share: answers as bytes under names, in a store. Loop thread."""

import os

cimport cython
from libc.stdint cimport int64_t

from triton_async.core.answers_kept cimport decode_answer, encode_answer
from triton_async.core.cache cimport DIGEST_NBYTES, ResponseCache, is_kept
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature

from triton_async.config.redis_defines import REDIS_ENTRY_NBYTES

cdef int64_t ENTRY_NBYTES = REDIS_ENTRY_NBYTES


@cython.final
cdef class SharedCache(ResponseCache):
    """`store`: where values are, by name. `namespace`: those of other ones are not seen."""

    def __init__(self, store, str namespace=""):
        ResponseCache.__init__(self)
        self.remote = True
        self.store = store
        # The number of the form of names and values: other versions of this server use others.
        self.prefix = f"triton-async:1:{namespace}:".encode()

    cdef int64_t add_owner(self, bytes identity) except -1:
        cdef int64_t owner = ResponseCache.add_owner(self, identity)
        # Of what is not known well enough nobody else has answers.
        self.owners[owner] = identity or os.urandom(DIGEST_NBYTES)
        return owner

    cdef bint ask(self, bytes key, object told) except -1:
        return self.store.get(self._name(key), told)

    cdef InferResponse read(self, bytes value, bytes key, InferRequest request, ModelSignature signature):
        cdef InferResponse response = decode_answer(value, key, request, signature)
        if response is None:
            self.store.note_broken()
        return response

    cdef int keep(self, int64_t owner, bytes key, InferResponse response) except -1:
        if not is_kept(response):
            return 0
        value = encode_answer(key, response, ENTRY_NBYTES)
        if value is not None:
            self.store.put(self._name(key), value)
        return 0

    def _name(self, bytes key):
        return self.prefix + key.hex().encode()
