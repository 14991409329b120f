"""Things in the order of a key: requests by their deadlines, levels by their priority. Loop thread."""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

cdef int64_t LEAST_ROOM = 8


cdef inline bint _before(Entry one, Entry other) noexcept:
    return one.at_ns < other.at_ns or (one.at_ns == other.at_ns and one.number < other.number)


cdef inline Entry _entry(int64_t at_ns, uint64_t number, void *item) noexcept:
    cdef Entry entry
    entry.at_ns = at_ns
    entry.number = number
    entry.item = item
    return entry


# How many entries of a chunk are before `entry`.
cdef int64_t _count_before(Chunk *chunk, Entry entry) noexcept:
    cdef int64_t low = 0
    cdef int64_t high = chunk.size
    cdef int64_t middle
    while low < high:
        middle = (low + high) // 2
        if _before(chunk.entries[middle], entry):
            low = middle + 1
        else:
            high = middle
    return low


@cython.final
cdef class SortedChunks:
    """See sorted_chunks.pxd."""

    def __dealloc__(self):
        cdef int64_t i
        for i in range(self.n_chunks):
            free(self.chunks[i])
        free(self.chunks)

    cdef int64_t _chunk_of(self, Entry entry) noexcept:
        cdef int64_t low = 0
        cdef int64_t high = self.n_chunks
        cdef int64_t middle
        while high - low > 1:
            middle = (low + high) // 2
            if _before(entry, self.chunks[middle].entries[0]):
                high = middle
            else:
                low = middle
        return low

    cdef bint _open(self, int64_t place) noexcept:
        cdef Chunk **chunks
        cdef Chunk *made
        if self.n_chunks == self.room:
            chunks = <Chunk **>realloc(self.chunks, max(2 * self.room, LEAST_ROOM) * sizeof(Chunk *))
            if chunks is NULL:
                return False
            self.chunks = chunks
            self.room = max(2 * self.room, LEAST_ROOM)
        made = <Chunk *>malloc(sizeof(Chunk))
        if made is NULL:
            return False
        made.size = 0
        memmove(&self.chunks[place + 1], &self.chunks[place], (self.n_chunks - place) * sizeof(Chunk *))
        self.chunks[place] = made
        self.n_chunks += 1
        return True

    cdef void *add(self, int64_t at_ns, uint64_t number, void *item) except? NULL:
        cdef Entry entry = _entry(at_ns, number, item)
        cdef int64_t place
        cdef int64_t at
        cdef int64_t half
        cdef Chunk *chunk
        if self.n_chunks == 0 and not self._open(0):
            raise MemoryError()
        place = self._chunk_of(entry)
        chunk = self.chunks[place]
        at = _count_before(chunk, entry)
        if chunk.size == CHUNK_ENTRIES:
            if not self._open(place + 1):
                raise MemoryError()
            # What comes in order fills its chunks; in the middle both halves get room.
            half = CHUNK_ENTRIES if at == CHUNK_ENTRIES else CHUNK_ENTRIES // 2
            memcpy(self.chunks[place + 1].entries, &chunk.entries[half], (CHUNK_ENTRIES - half) * sizeof(Entry))
            self.chunks[place + 1].size = CHUNK_ENTRIES - half
            chunk.size = half
            if at > half or half == CHUNK_ENTRIES:
                place += 1
                at -= half
                chunk = self.chunks[place]
        memmove(&chunk.entries[at + 1], &chunk.entries[at], (chunk.size - at) * sizeof(Entry))
        chunk.entries[at] = entry
        chunk.size += 1
        self.size += 1
        if at > 0:
            return chunk.entries[at - 1].item
        if place == 0:
            return NULL
        chunk = self.chunks[place - 1]
        return chunk.entries[chunk.size - 1].item

    cdef int discard(self, int64_t at_ns, uint64_t number) noexcept:
        cdef Entry entry = _entry(at_ns, number, NULL)
        cdef int64_t place = self._chunk_of(entry)
        cdef Chunk *chunk = self.chunks[place]
        cdef int64_t at = _count_before(chunk, entry)
        chunk.size -= 1
        self.size -= 1
        memmove(&chunk.entries[at], &chunk.entries[at + 1], (chunk.size - at) * sizeof(Entry))
        if chunk.size == 0:
            free(chunk)
            self.n_chunks -= 1
            memmove(&self.chunks[place], &self.chunks[place + 1], (self.n_chunks - place) * sizeof(Chunk *))
        return 0
