/* A response cache of a few entries in an array. The setting `mode` has it fail: "lookup", "insert", "slow", "zero". */
#include "triton/core/tritoncache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TRY(call)                         \
    do {                                  \
        TRITONSERVER_Error *err = (call); \
        if (err != NULL)                  \
            return err;                   \
    } while (0)

#define ENTRIES 64

typedef struct kept {
    char *key;
    void *value;
    size_t nbytes;
} kept;

struct TRITONCACHE_Cache {
    char config[512];
    pthread_mutex_t lock;
    kept entries[ENTRIES];
    int count;
};

static int is(TRITONCACHE_Cache *cache, const char *mode) {
    return strstr(cache->config, mode) != NULL;
}

TRITONSERVER_Error *TRITONCACHE_CacheInitialize(TRITONCACHE_Cache **cache, const char *config) {
    if (strstr(config, "\"refuse\"") != NULL)
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, "these settings are not to its taste");
    *cache = calloc(1, sizeof(**cache));
    pthread_mutex_init(&(*cache)->lock, NULL);
    strncpy((*cache)->config, config, sizeof((*cache)->config) - 1);
    return NULL;
}

TRITONSERVER_Error *TRITONCACHE_CacheFinalize(TRITONCACHE_Cache *cache) {
    TRITONSERVER_LogMessage(TRITONSERVER_LOG_INFO, __FILE__, __LINE__, "the cache is finalised");
    free(cache);
    return NULL;
}

static kept *find(TRITONCACHE_Cache *cache, const char *key) {
    for (int i = 0; i < cache->count; i++)
        if (strcmp(cache->entries[i].key, key) == 0)
            return &cache->entries[i];
    return NULL;
}

static TRITONSERVER_Error *look_up(TRITONCACHE_Cache *cache, const char *key, TRITONCACHE_CacheEntry *entry,
                                   TRITONCACHE_Allocator *allocator) {
    TRITONSERVER_BufferAttributes *attributes;
    kept *found = find(cache, key);
    if (found == NULL)
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_NOT_FOUND, "there is none");
    TRY(TRITONSERVER_BufferAttributesNew(&attributes));
    TRY(TRITONSERVER_BufferAttributesSetByteSize(attributes, found->nbytes));
    TRY(TRITONCACHE_CacheEntryAddBuffer(entry, found->value, attributes));
    TRY(TRITONSERVER_BufferAttributesDelete(attributes));
    return TRITONCACHE_Copy(allocator, entry);
}

TRITONSERVER_Error *TRITONCACHE_CacheLookup(
    TRITONCACHE_Cache *cache, const char *key, TRITONCACHE_CacheEntry *entry, TRITONCACHE_Allocator *allocator) {
    if (is(cache, "\"lookup\""))
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "the look-up went wrong");
    if (is(cache, "\"slow\""))
        usleep(2000000);
    pthread_mutex_lock(&cache->lock);
    TRITONSERVER_Error *error = look_up(cache, key, entry, allocator);
    pthread_mutex_unlock(&cache->lock);
    return error;
}

static TRITONSERVER_Error *insert(TRITONCACHE_Cache *cache, const char *key, TRITONCACHE_CacheEntry *entry,
                                  TRITONCACHE_Allocator *allocator) {
    TRITONSERVER_BufferAttributes *attributes;
    void *base;
    size_t count;
    if (find(cache, key) != NULL || cache->count == ENTRIES)
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_ALREADY_EXISTS, "it is there, or there is no room");
    TRY(TRITONCACHE_CacheEntryBufferCount(entry, &count));
    TRY(TRITONSERVER_BufferAttributesNew(&attributes));
    TRY(TRITONCACHE_CacheEntryGetBuffer(entry, count - 1, &base, attributes));
    kept *made = &cache->entries[cache->count];
    TRY(TRITONSERVER_BufferAttributesByteSize(attributes, &made->nbytes));
    TRY(TRITONSERVER_BufferAttributesDelete(attributes));
    made->value = calloc(1, made->nbytes);
    made->key = strdup(key);
    TRY(TRITONCACHE_CacheEntrySetBuffer(entry, 0, made->value, NULL));
    if (!is(cache, "\"zero\""))
        TRY(TRITONCACHE_Copy(allocator, entry));
    cache->count++;
    return NULL;
}

TRITONSERVER_Error *TRITONCACHE_CacheInsert(
    TRITONCACHE_Cache *cache, const char *key, TRITONCACHE_CacheEntry *entry, TRITONCACHE_Allocator *allocator) {
    if (is(cache, "\"insert\""))
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "the insertion went wrong");
    pthread_mutex_lock(&cache->lock);
    TRITONSERVER_Error *error = insert(cache, key, entry, allocator);
    pthread_mutex_unlock(&cache->lock);
    return error;
}
