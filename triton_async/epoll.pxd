# The kernel's, epoll(7), with descriptors for data.

from libc.stdint cimport uint32_t

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum: EPOLL_CLOEXEC
    enum: EPOLL_CTL_ADD
    enum: EPOLL_CTL_DEL
    enum: EPOLL_CTL_MOD
    enum: EPOLLIN
    enum: EPOLLOUT
    int epoll_create1(int flags)
    int epoll_ctl(int watcher, int operation, int fd, epoll_event *event)
    int epoll_wait(int watcher, epoll_event *events, int most, int timeout)
