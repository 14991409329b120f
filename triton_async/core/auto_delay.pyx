"""How long a batch is held back where the server is to find out itself. Loop thread."""

cimport cython
from libc.stdint cimport int64_t

from triton_async.defines import AUTO_DELAY_GAIN_NS, AUTO_DELAY_WINDOW_NS

cdef double GAIN_NS = AUTO_DELAY_GAIN_NS
cdef int64_t WINDOW_NS = AUTO_DELAY_WINDOW_NS
# Executions that a window of the load is long.
cdef double WINDOW_EXECUTIONS = 16
# Share of the newest in what is known of gaps, once there are so many; and of what went before in that of executions.
cdef double NEWEST = 0.125
cdef int ENOUGH = 8
cdef double DECAY = 0.9375
# From which share on the next request counts as about to come, and up to which it surely stays away. Between them it
# may be chance that it came, and all that is thought of those before: they are worth half the wait.
cdef float COMES = 0.7
cdef float STAYS_AWAY = 0.3
# A gap of so many times the mean is none of those that were meant.
cdef double PATIENCE = 4


@cython.final
cdef class AutoDelay:
    """See auto_delay.pxd. `bound_us`: 0 for none."""

    def __init__(self, int64_t max_rows, int64_t bound_us, int64_t instances):
        self.max_rows = max_rows
        self.bound_ns = bound_us * 1000
        self.instances = max(instances, 1)

    cdef int arrived(self, int64_t waiting, int64_t now_ns) noexcept:
        if waiting == 0:
            self.held_ns = 0
        self._see(waiting + self.running, now_ns - self.last_ns)
        self.last_ns = now_ns
        return self._roll(now_ns)

    cdef int taken(self, int64_t requests, int64_t now_ns) noexcept:
        self.running += requests
        if self.held_ns:
            self.busy_ns += now_ns - self.held_ns
            self.held_ns = 0
        return 0

    cdef int ended(self, int64_t waiting, int64_t requests, int64_t rows, int64_t execution_ns,
                   int64_t now_ns) noexcept:
        if execution_ns < 0:
            self.running -= requests
            return 0
        # Nobody came for as long as an execution: as far as that matters the gap never ended.
        if now_ns - self.last_ns >= (self.overhead_ns + self.row_ns) / 2:
            self._see(waiting + self.running, -1)
        self.running -= requests
        self.last_ns = max(self.last_ns, now_ns)
        self.busy_ns += execution_ns
        self._fit(rows, execution_ns)
        return self._roll(now_ns)

    # `gap_ns`: until the next request came; -1: it did not.
    cdef int _see(self, int64_t outstanding, int64_t gap_ns) noexcept:
        cdef Outlook *outlook = &self.outlooks[min(outstanding, <int64_t>MOST_OUTSTANDING)]
        cdef double weight
        cdef bint soon
        if self.n == 0:
            return 0
        soon = 0 <= gap_ns <= self.overhead_ns + self.row_ns * min(max(outstanding, 1), self.max_rows)
        weight = NEWEST if outlook.seen >= ENOUGH else 1.0 / (outlook.seen + 1)
        outlook.seen = min(outlook.seen + 1, ENOUGH)
        outlook.soon += ((1.0 if soon else 0.0) - outlook.soon) * weight
        if soon:
            outlook.gap_ns += (gap_ns - outlook.gap_ns) * (weight if outlook.gap_ns > 0 else 1.0)
        return 0

    # Least squares of a line through what executions took, the newer the heavier.
    cdef int _fit(self, int64_t rows, int64_t execution_ns) noexcept:
        cdef double took = execution_ns
        cdef double mean_rows
        cdef double mean
        cdef double spread
        # One that was held up by something else says little of the others.
        if self.n > 2:
            took = min(took, PATIENCE * (self.overhead_ns + self.row_ns * rows))
        self.n = DECAY * self.n + 1
        self.rows = DECAY * self.rows + rows
        self.rows_squared = DECAY * self.rows_squared + <double>rows * rows
        self.took = DECAY * self.took + took
        self.rows_took = DECAY * self.rows_took + rows * took
        mean_rows = self.rows / self.n
        mean = self.took / self.n
        spread = self.rows_squared / self.n - mean_rows * mean_rows
        if spread < 0.01 * mean_rows * mean_rows or mean_rows == 0:
            self.overhead_ns = mean / 2  # all of one size: it may be either
        else:
            self.overhead_ns = mean - mean_rows * (self.rows_took / self.n - mean_rows * mean) / spread
            self.overhead_ns = min(max(self.overhead_ns, 0.0), mean)
        self.row_ns = (mean - self.overhead_ns) / max(mean_rows, 1.0)
        return 0

    cdef int _roll(self, int64_t now_ns) noexcept:
        cdef int64_t elapsed_ns = now_ns - self.window_ns
        cdef double window_ns
        cdef double load
        if elapsed_ns < WINDOW_NS:
            return 0
        window_ns = max(<double>WINDOW_NS, WINDOW_EXECUTIONS * (self.overhead_ns + self.row_ns))
        if elapsed_ns < window_ns:
            return 0
        load = min(<double>self.busy_ns / (<double>elapsed_ns * self.instances), 1.0)
        # What went before counts for half of it, after a long time for nothing.
        self.load = load if elapsed_ns > 8 * window_ns else (load + self.load) / 2
        self.window_ns = now_ns
        self.busy_ns = 0
        return 0

    cdef int64_t hold_until(self, int64_t requests, int64_t rows, int64_t idle, int64_t now_ns) noexcept:
        cdef double rows_each = max(<double>rows / requests, 1.0)
        cdef double row_ns = self.row_ns * rows_each              # of a request
        cdef double overhead_ns = self.overhead_ns
        cdef double execution_ns = overhead_ns + self.row_ns * rows
        cdef double room = (self.max_rows - rows) / rows_each + (idle - 1) * (self.max_rows / rows_each)
        cdef int64_t outstanding = requests + self.running
        cdef int64_t more = 0
        cdef double wait_ns = 0
        cdef double sure = 1
        cdef double together
        cdef double gain
        cdef double patience_ns
        cdef double until_ns
        cdef bint all_of_them = False
        cdef Outlook *outlook
        if self.n == 0 or (self.held_ns and now_ns >= self.held_ns + execution_ns):
            return 0
        # Who is about to come: up to the gap behind which nobody does, or as many as there is room for.
        while more + 1 <= room and wait_ns < execution_ns:
            outlook = &self.outlooks[min(outstanding + more, <int64_t>MOST_OUTSTANDING)]
            if outlook.seen < 2 or outlook.soon < COMES:
                all_of_them = True
                if outlook.seen >= 2 and outlook.soon > STAYS_AWAY:
                    wait_ns *= 2
                break
            sure = min(sure, <double>outlook.soon)
            wait_ns += outlook.gap_ns
            more += 1
        if idle > 1:  # they are shared among the instances
            room = (requests + more + idle - 1) // idle - requests
            if room <= 0 or more == 0:
                return 0
            wait_ns *= room / more
            more = <int64_t>room
        if more == 0:
            return 0
        together = requests + more
        gain = (1 - self.load) * (more * overhead_ns - together * wait_ns - requests * more * row_ns)
        gain += self.load * together * (
            (overhead_ns if all_of_them else overhead_ns * more * rows_each / self.max_rows) - wait_ns)
        # Those that do not come are waited for in vain.
        outlook = &self.outlooks[min(outstanding, <int64_t>MOST_OUTSTANDING)]
        patience_ns = min(PATIENCE * outlook.gap_ns + GAIN_NS + self.load * overhead_ns / PATIENCE, execution_ns)
        if sure * gain - (1 - sure) * requests * patience_ns <= GAIN_NS * together:
            return 0
        if self.held_ns == 0:
            self.held_ns = now_ns
        until_ns = min(self.last_ns + patience_ns, self.held_ns + execution_ns)
        if self.bound_ns:
            until_ns = min(until_ns, <double>(self.held_ns + self.bound_ns))
        return <int64_t>until_ns if until_ns > now_ns else 0
