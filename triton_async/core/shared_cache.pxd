# A response cache that other processes share.

from triton_async.core.cache cimport ResponseCache

# Loop thread. What keys begin with is the identity of a version, so that they are the same wherever the same files are
# loaded, and another version's answers are never found. What is kept outlives the process.
cdef class SharedCache(ResponseCache):
    cdef object store                    # core.redis_store.RedisStore, or what has its `get`, `put` and `note_broken`
    cdef bytes prefix                    # of all names of values
