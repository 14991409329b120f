"""Turns: what is done once behind all that has come to the loop's thread at once. Loop thread."""

import logging

log = logging.getLogger("triton_async.core")

# How often what is due may make something else due before the sockets are looked at again.
cdef int ROUNDS = 8


cdef class Sender:
    cdef int send(self) except -1:
        return 0


cdef class Turn:
    """The turns of one loop. `loop`: whose thread all of it runs on."""

    def __init__(self, loop):
        self.loop = loop
        self.late = []
        self.next = []
        self.senders = []
        self.run_method = self._run

    def close(self):
        """Nothing is called any more; it is part of a cycle until then."""
        self.run_method = None
        self.late = []
        self.next = []

    cdef bint begin(self) noexcept:
        if self.running:
            return False
        self.running = True
        self.number += 1
        return True

    cdef int end(self) noexcept:
        cdef list methods
        cdef int rounds = 0
        try:
            # Who has room again for what it sends may write more.
            while (self.late or self.senders) and rounds < ROUNDS:
                rounds += 1
                methods = self.late
                self.late = []
                self._call(methods)
                if self.senders:
                    self._send()
            if self.late or self.senders:
                self._schedule()
        except Exception:
            log.exception("a turn of the loop failed")
        self.running = False
        return 0

    cdef int _call(self, list methods) noexcept:
        for method in methods:
            try:
                method()
            except Exception:
                log.exception("what was due in a turn of the loop failed")
        return 0

    cdef int _send(self) noexcept:
        cdef list senders = self.senders
        cdef Sender sender
        self.senders = []
        for sender in senders:
            sender.gathers = False
            try:
                sender.send()
            except Exception:
                log.exception("what was written in a turn of the loop could not be sent")
        return 0

    cdef int call_late(self, object method) except -1:
        self.late.append(method)
        return 0 if self.running else self._schedule()

    cdef int _schedule(self) except -1:
        if not self.scheduled and self.run_method is not None:
            self.scheduled = True
            self.loop.call_soon(self.run_method)
        return 0

    cdef int call_next(self, object method) except -1:
        self.next.append(method)
        return self._schedule()

    def _run(self):
        self.scheduled = False
        self.late += self.next
        self.next = []
        if self.begin():
            self.end()

    cdef int gather(self, Sender sender) except -1:
        if not sender.gathers:
            sender.gathers = True
            self.senders.append(sender)
        return 0
