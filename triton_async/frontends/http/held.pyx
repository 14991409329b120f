"""Bytes of a connection that wait to be acted upon. Any thread."""

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove


cdef int append(Held *held, const unsigned char *data, Py_ssize_t size) except -1:
    cdef char *room
    if held.size + size > held.room:
        room = <char *>realloc(held.data, held.size + size)
        if room == NULL:
            raise MemoryError
        held.data = room
        held.room = held.size + size
    memcpy(held.data + held.size, data, size)
    held.size += size
    return 0


cdef void drop(Held *held, Py_ssize_t count) noexcept:
    held.size -= count
    if held.size == 0:
        free(held.data)
        held.data = NULL
        held.room = 0
    elif count:
        memmove(held.data, held.data + count, held.size)
