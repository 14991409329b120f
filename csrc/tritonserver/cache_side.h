/* What the server asks of a cache's library, through libtritonserver.so (triton_async.core.native_store). */
#ifndef TRITON_ASYNC_CACHE_SIDE_H
#define TRITON_ASYNC_CACHE_SIDE_H

#include "triton/core/tritoncache.h"

/* TRITONCACHE_CacheLookup or TRITONCACHE_CacheInsert of a library. */
typedef TRITONSERVER_Error *(*ta_cache_function)(
    TRITONCACHE_Cache *cache, const char *key, TRITONCACHE_CacheEntry *entry, TRITONCACHE_Allocator *allocator);

/* What is kept under a key, a copy for `ta_cache_free`; an error, NOT_FOUND for nothing. */
TRITONSERVER_Error *ta_cache_lookup(ta_cache_function lookup, TRITONCACHE_Cache *cache, const char *key, char **value,
                                    size_t *nbytes);
void ta_cache_free(char *value);
TRITONSERVER_Error *ta_cache_insert(ta_cache_function insert, TRITONCACHE_Cache *cache, const char *key,
                                    const char *value, size_t nbytes);

#endif
