/* Entries of response caches, and how the server's bytes get into a cache's memory and out of it. Any thread. */
#include "internal.h"

#include "cache_side.h"

#include <stdlib.h>
#include <string.h>

typedef struct ta_buffer {
    void *base;
    TRITONSERVER_BufferAttributes attributes;
} ta_buffer;

struct TRITONCACHE_CacheEntry {
    size_t count;
    ta_buffer *buffers;
};

struct TRITONCACHE_Allocator {
    const char *from; /* of an insert: the value; NULL: of a lookup */
    size_t nbytes;
    char *found;      /* of a lookup: a copy of the value, once there is one */
};

static TRITONSERVER_Error *no_memory(void) {
    return ta_error(TRITONSERVER_ERROR_INTERNAL, "out of memory");
}

EXPORT TRITONSERVER_Error *TRITONCACHE_CacheEntryNew(TRITONCACHE_CacheEntry **entry) {
    NEEDS(entry);
    *entry = calloc(1, sizeof(**entry));
    return *entry == NULL ? no_memory() : NULL;
}

EXPORT TRITONSERVER_Error *TRITONCACHE_CacheEntryDelete(TRITONCACHE_CacheEntry *entry) {
    if (entry != NULL)
        free(entry->buffers);
    free(entry);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONCACHE_CacheEntryBufferCount(TRITONCACHE_CacheEntry *entry, size_t *count) {
    NEEDS(entry);
    NEEDS(count);
    *count = entry->count;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONCACHE_CacheEntryAddBuffer(
    TRITONCACHE_CacheEntry *entry, void *base, TRITONSERVER_BufferAttributes *buffer_attributes) {
    NEEDS(entry);
    NEEDS(buffer_attributes);
    if (base == NULL && buffer_attributes->nbytes > 0)
        return ta_null("base");
    if (buffer_attributes->memory_type == TRITONSERVER_MEMORY_GPU)
        return ta_error(TRITONSERVER_ERROR_UNSUPPORTED, "only buffers in CPU memory can be in a cache entry");
    ta_buffer *buffers = realloc(entry->buffers, (entry->count + 1) * sizeof(*buffers));
    if (buffers == NULL)
        return no_memory();
    buffers[entry->count++] = (ta_buffer){base, *buffer_attributes};
    entry->buffers = buffers;
    return NULL;
}

static TRITONSERVER_Error *check_index(TRITONCACHE_CacheEntry *entry, size_t index) {
    return index < entry->count ? NULL
                                : ta_error(TRITONSERVER_ERROR_INVALID_ARG,
                                           "index was greater than count of buffers in the cache entry");
}

EXPORT TRITONSERVER_Error *TRITONCACHE_CacheEntryGetBuffer(
    TRITONCACHE_CacheEntry *entry, size_t index, void **base, TRITONSERVER_BufferAttributes *buffer_attributes) {
    NEEDS(entry);
    NEEDS(base);
    NEEDS(buffer_attributes);
    TRITONSERVER_Error *error = check_index(entry, index);
    if (error != NULL)
        return error;
    *base = entry->buffers[index].base;
    *buffer_attributes = entry->buffers[index].attributes;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONCACHE_CacheEntrySetBuffer(
    TRITONCACHE_CacheEntry *entry, size_t index, void *new_base, TRITONSERVER_BufferAttributes *buffer_attributes) {
    NEEDS(entry);
    TRITONSERVER_Error *error = check_index(entry, index);
    if (error != NULL)
        return error;
    entry->buffers[index].base = new_base;
    if (buffer_attributes != NULL)
        entry->buffers[index].attributes = *buffer_attributes;
    return NULL;
}

static size_t size_of(const TRITONCACHE_CacheEntry *entry) {
    size_t nbytes = 0;
    for (size_t i = 0; i < entry->count; i++)
        nbytes += entry->buffers[i].attributes.nbytes;
    return nbytes;
}

/* All buffers one behind the other: what was inserted was one. */
static TRITONSERVER_Error *take(TRITONCACHE_Allocator *allocator, const TRITONCACHE_CacheEntry *entry) {
    if (allocator->found != NULL)
        return ta_error(TRITONSERVER_ERROR_ALREADY_EXISTS, "the entry was copied already");
    allocator->nbytes = size_of(entry);
    allocator->found = malloc(allocator->nbytes + 1);
    if (allocator->found == NULL)
        return no_memory();
    char *to = allocator->found;
    for (size_t i = 0; i < entry->count; i++) {
        if (entry->buffers[i].attributes.nbytes > 0)
            memcpy(to, entry->buffers[i].base, entry->buffers[i].attributes.nbytes);
        to += entry->buffers[i].attributes.nbytes;
    }
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONCACHE_Copy(TRITONCACHE_Allocator *allocator, TRITONCACHE_CacheEntry *entry) {
    NEEDS(allocator);
    NEEDS(entry);
    if (allocator->from == NULL)
        return take(allocator, entry);
    if (entry->count != 1 || entry->buffers[0].base == NULL || entry->buffers[0].attributes.nbytes != allocator->nbytes)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "the cache's buffers are not those of the entry");
    if (entry->buffers[0].base != allocator->from)
        memcpy(entry->buffers[0].base, allocator->from, allocator->nbytes);
    return NULL;
}

/* -- For the server */

EXPORT TRITONSERVER_Error *ta_cache_lookup(ta_cache_function lookup, TRITONCACHE_Cache *cache, const char *key,
                                           char **value, size_t *nbytes) {
    TRITONCACHE_CacheEntry entry = {0, NULL};
    TRITONCACHE_Allocator allocator = {NULL, 0, NULL};
    TRITONSERVER_Error *error = lookup(cache, key, &entry, &allocator);
    /* A cache that gives its own buffers without Copy keeps them until it is asked again. */
    if (error == NULL && allocator.found == NULL)
        error = take(&allocator, &entry);
    free(entry.buffers);
    *value = error == NULL ? allocator.found : NULL;
    *nbytes = error == NULL ? allocator.nbytes : 0;
    if (error != NULL)
        free(allocator.found);
    return error;
}

EXPORT void ta_cache_free(char *value) {
    free(value);
}

EXPORT TRITONSERVER_Error *ta_cache_insert(ta_cache_function insert, TRITONCACHE_Cache *cache, const char *key,
                                           const char *value, size_t nbytes) {
    ta_buffer buffer = {(void *)(uintptr_t)value, {TRITONSERVER_MEMORY_CPU, 0, nbytes, NULL}};
    TRITONCACHE_CacheEntry entry = {0, NULL};
    TRITONCACHE_Allocator allocator = {value, nbytes, NULL};
    TRITONSERVER_Error *error = TRITONCACHE_CacheEntryAddBuffer(&entry, buffer.base, &buffer.attributes);
    if (error == NULL)
        error = insert(cache, key, &entry, &allocator);
    free(entry.buffers);
    return error;
}
