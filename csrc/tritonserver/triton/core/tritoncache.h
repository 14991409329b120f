/* The C API between the server and a response cache: a shared library `libtritoncache_<name>.so`.
 *
 * Names, numbers and signatures are those of Triton's public API, so that caches built for it run unchanged. The rules
 * of tritonserver.h hold here too. An entry is a list of buffers in host memory, which mean nothing to the cache.
 */
#ifndef TRITON_CORE_TRITONCACHE_H
#define TRITON_CORE_TRITONCACHE_H

#include "tritonserver.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TRITONCACHE_DECLSPEC TRITONSERVER_DECLSPEC
/* What the library implements and the server calls. */
#define TRITONCACHE_ISPEC TRITONSERVER_DECLSPEC

typedef struct TRITONCACHE_Allocator TRITONCACHE_Allocator;
typedef struct TRITONCACHE_Cache TRITONCACHE_Cache; /* the library's own */
typedef struct TRITONCACHE_CacheEntry TRITONCACHE_CacheEntry;

#define TRITONCACHE_API_VERSION_MAJOR 0
#define TRITONCACHE_API_VERSION_MINOR 1

TRITONCACHE_DECLSPEC TRITONSERVER_Error *TRITONCACHE_ApiVersion(uint32_t *major, uint32_t *minor);

TRITONCACHE_DECLSPEC TRITONSERVER_Error *TRITONCACHE_CacheEntryNew(TRITONCACHE_CacheEntry **entry);
TRITONCACHE_DECLSPEC TRITONSERVER_Error *TRITONCACHE_CacheEntryDelete(TRITONCACHE_CacheEntry *entry);
TRITONCACHE_DECLSPEC TRITONSERVER_Error *TRITONCACHE_CacheEntryBufferCount(
    TRITONCACHE_CacheEntry *entry, size_t *count);
/* A buffer of the cache's, which stays where it is until Copy, or until the lookup returns; the attributes, which give
 * its size, are copied. */
TRITONCACHE_DECLSPEC TRITONSERVER_Error *TRITONCACHE_CacheEntryAddBuffer(
    TRITONCACHE_CacheEntry *entry, void *base, TRITONSERVER_BufferAttributes *buffer_attributes);
/* The attributes are the caller's object, and are set. */
TRITONCACHE_DECLSPEC TRITONSERVER_Error *TRITONCACHE_CacheEntryGetBuffer(
    TRITONCACHE_CacheEntry *entry, size_t index, void **base, TRITONSERVER_BufferAttributes *buffer_attributes);
/* Where Copy of an insert puts a buffer; `buffer_attributes` NULL: as they are. */
TRITONCACHE_DECLSPEC TRITONSERVER_Error *TRITONCACHE_CacheEntrySetBuffer(
    TRITONCACHE_CacheEntry *entry, size_t index, void *new_base, TRITONSERVER_BufferAttributes *buffer_attributes);
/* In a lookup: the server takes what is in the entry's buffers. In an insert: it fills those that the cache set. */
TRITONCACHE_DECLSPEC TRITONSERVER_Error *TRITONCACHE_Copy(
    TRITONCACHE_Allocator *allocator, TRITONCACHE_CacheEntry *entry);

/* -- What the library implements; all of it is required. Any thread, several at once. */

/* `config`: the settings of --cache-config as one JSON object of strings. */
TRITONCACHE_ISPEC TRITONSERVER_Error *TRITONCACHE_CacheInitialize(TRITONCACHE_Cache **cache, const char *config);
TRITONCACHE_ISPEC TRITONSERVER_Error *TRITONCACHE_CacheFinalize(TRITONCACHE_Cache *cache);
/* NOT_FOUND: there is none. */
TRITONCACHE_ISPEC TRITONSERVER_Error *TRITONCACHE_CacheLookup(
    TRITONCACHE_Cache *cache, const char *key, TRITONCACHE_CacheEntry *entry, TRITONCACHE_Allocator *allocator);
/* ALREADY_EXISTS: it is there. */
TRITONCACHE_ISPEC TRITONSERVER_Error *TRITONCACHE_CacheInsert(
    TRITONCACHE_Cache *cache, const char *key, TRITONCACHE_CacheEntry *entry, TRITONCACHE_Allocator *allocator);

#ifdef __cplusplus
}
#endif

#endif
