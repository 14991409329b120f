# The rate limiter: budgets of named resources, which executions take before they begin and give back when they end.

from libc.stdint cimport int64_t

from triton_async.core.reactor cimport Reactor, Wakeable

# The copies of one resource on one device, or of all devices together. Loop thread.
cdef class Budget:
    cdef readonly str name
    cdef readonly int device             # -1: global
    cdef readonly int64_t limit
    cdef readonly int64_t used           # more than `limit` for a while when that was lowered
    cdef int64_t turn                    # of the last execution that took some: see Claim.turn
    cdef list claims                     # all that may ask for it

# What one instance needs for an execution.
cdef class Claim:
    cdef readonly list budgets           # of Budget, each once
    cdef readonly list counts            # of int, for each of them
    cdef readonly int64_t priority       # 1: most urgent
    cdef readonly bint held
    # Where it stands in the order of executions: how often it had its turn, times its priority. One that did not ask
    # for long catches up with the budgets it asks for, so that it makes up for nothing.
    cdef readonly int64_t turn
    cdef str where                       # instance and file, for errors

    cdef int64_t due(self) noexcept
    cdef bint fits(self) noexcept
    # Whether both of them fit at once.
    cdef bint fits_with(self, Claim other) noexcept

# A model that has something to run and can not begin.
cdef class Applicant:
    cdef Wakeable model
    cdef list claims                     # of idle instances that were refused; not empty
    cdef int64_t number                  # counts up

    cdef Claim first(self)
    cdef tuple order(self)

# One for a server, or none. Loop thread.
#
# Invariants
#   - budget.used == the sum of the counts of the claims that are held
#   - an applicant is woken whenever something is given back, or another one leaves the line
#   - nobody takes what an applicant that comes earlier would lack then: in the order of `due`, then of arrival, the
#     first one gets all that it needs as soon as it is given back, whatever else is asked for
cdef class RateLimiter:
    cdef Reactor reactor
    cdef dict budgets                    # (name, device) -> Budget
    cdef object granted                  # name -> device or -1 -> count, as the options say; None: nothing is said
    cdef dict waiting                    # Wakeable -> Applicant
    cdef int64_t arrivals

    # Takes what the claim needs, for `model`, unless an earlier one would lack some of it. False: it stands in the
    # line with this claim from now on. True: `settle` has to follow at once.
    cdef bint acquire(self, Claim claim, Wakeable model) except -1
    cdef bint _may_have(self, Claim claim, Wakeable model, Applicant applicant) except -1
    # Whether an execution begins with what was acquired, or it is given back. The model does not wait for it any more.
    cdef int settle(self, Claim claim, Wakeable model, bint begun) except -1
    # Gives back what an execution had, once or more often.
    cdef int release(self, Claim claim) except -1
    cdef int _give_back(self, Claim claim) except -1
    # The model has nothing to run.
    cdef int leave(self, Wakeable model) except -1
    # Everybody in the line tries again in this turn of the loop, the first one first.
    cdef int wake(self) except -1
