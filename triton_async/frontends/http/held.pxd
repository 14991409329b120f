# Bytes received and not yet acted upon: the front part of a head, or what has to wait. Any thread.

# Starts zeroed. Its owner drops everything before it goes.
ctypedef struct Held:
    char *data           # NULL when empty
    Py_ssize_t size
    Py_ssize_t room

# MemoryError; nothing is appended then.
cdef int append(Held *held, const unsigned char *data, Py_ssize_t size) except -1

# Takes `count` bytes off the front; the memory goes with the last of them.
cdef void drop(Held *held, Py_ssize_t count) noexcept
