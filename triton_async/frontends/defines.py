"""Limits of the sockets of clients, with units and reasons."""

from typing import Final

# Bytes received at once for protocols that have no memory of their own.
RECEIVE_NBYTES: Final = 1 << 16

# Bytes that clients may send in one turn, and as many that they may be sent: the kernel copies these in 0.2 ms. Many
# at once share them, down to RECEIVE_NBYTES each.
TURN_NBYTES: Final = 1 << 19

# Bytes that wait to be sent above which a protocol is asked to write no more, where it says no other number.
WRITE_NBYTES: Final = 1 << 16

# Connections accepted in one turn of a port: each takes some 20 us.
ACCEPTS_PER_TURN: Final = 32

# Seconds without accepting when descriptors or memory have run out: others' connections may end meanwhile.
REST_S: Final = 0.1
