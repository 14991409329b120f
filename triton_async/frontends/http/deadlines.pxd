# What a connection may take how long for. Event-loop thread.

from triton_async.frontends.http.connection cimport Connection

# To be called every second: ends what takes too long, and finds out whether a client that sends no more has gone.
cpdef int check(Connection connection) except -1
