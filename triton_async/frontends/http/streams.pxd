# The events of generate_stream, as a connection writes them. Event-loop thread.

from triton_async.frontends.http.answers cimport Answers, Exchange

# The stream is the connection's last exchange (nothing is taken behind it); it is written when it is the first.
#
# Invariant: `n_taken` and `taken_nbytes` tell of what has left its generation until the socket takes more: so a client
# that does not read holds back the model's sender.
cdef class Streams(Answers):
    # What there is to write now, the last piece first.
    cdef list _event_parts(self, Exchange exchange)
    cdef bytes _events_head(self, Exchange exchange)
