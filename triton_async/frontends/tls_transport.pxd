# TLS between the transport of a socket and the protocol that is served. uvloop has its own, which encrypts a whole
# answer at once, does not tell the protocol that the socket is full, drops its alerts, and when it closes waits for the
# client to say so too; asyncio's does the same. Event-loop thread.

# What the connections of one listener share. Called, it makes the protocol of an accepted socket.
cdef class TlsFactory:
    cdef object context          # ssl.SSLContext
    cdef object make_protocol    # makes what is served inside TLS
    cdef object required_alpn    # protocol that a client must have agreed to; None: any, or none
    cdef object loop
    cdef object received         # TLS_RECEIVE_NBYTES where every connection's bytes arrive; used up at once

#   HANDSHAKE --done--> OPEN --close()--> FLUSHING --all is encrypted--> CLOSED
#   any --failure, abort(), the client is gone--> CLOSED
cdef enum TlsState:
    TLS_HANDSHAKE = 0
    TLS_OPEN = 1
    TLS_FLUSHING = 2    # sends what was written; nothing is read or taken any more
    TLS_CLOSED = 3

# What stopped a read.
cdef enum InputEnd:
    INPUT_MORE = 0       # nothing: the view is full, or the input used up
    INPUT_PARTIAL = 1    # only part of a record is left
    INPUT_CLOSED = 2     # the client's close_notify
    INPUT_BROKEN = 3     # a record that is not genuine, or an alert

# Protocol to the transport below, transport to the protocol above.
#
# Invariants
#   - `backlog` is empty unless the transport below is full: what waits is not encrypted, and not copied
#   - the protocol above gets connection_made at most once, after the handshake, and connection_lost iff it got that
#   - it is paused exactly while the transport below is, or has yet to take the backlog
cdef class TlsTransport:
    cdef TlsFactory factory
    cdef int state               # TlsState
    cdef object below            # transport of the socket; None when lost
    cdef object above            # protocol; None when lost
    cdef bint served             # `above` had connection_made
    cdef bint buffered           # `above` is a BufferedProtocol
    cdef bint reading
    cdef int input_end           # InputEnd of the last read
    cdef object failure          # what is wrong with the input when it is broken
    cdef bint below_paused
    cdef bint above_paused
    cdef object timer            # ends a handshake that takes too long
    cdef object tls              # ssl.SSLObject
    cdef object incoming         # ssl.MemoryBIO: encrypted bytes received
    cdef object outgoing         # ssl.MemoryBIO: encrypted bytes to send
    cdef object backlog          # deque of memoryviews of bytes
    cdef Py_ssize_t backlog_nbytes

    cdef int _handshake(self) except -1
    # Decrypts what was received into the protocol, as long as that wants it.
    cdef int _deliver(self) except -1
    cdef Py_ssize_t _read_into(self, object view) except -1
    cdef bint _has_input(self) except -1
    cdef int _answer_control(self) except -1
    cdef int _put(self, object data) except -1
    # Encrypts and sends the backlog, as long as the transport below takes it.
    cdef int _pump(self) except -1
    cdef int _encrypt(self) except -1
    cdef int _send(self) except -1
    # Ends the connection because of `error`; the client gets the alert that says why.
    cdef int _fail(self, object error) except -1
    cdef int _finish(self) except -1
