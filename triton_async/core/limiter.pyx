"""The rate limiter of Triton (--rate-limit=execution_count), over all models of a server. Loop thread."""

from libc.stdint cimport int64_t

from triton_async.core.reactor cimport Reactor, Wakeable

from triton_async.errors import InvalidArg

# What Triton takes for the device of a resource that all devices share.
GLOBAL = -1


cdef class Budget:
    """`limit` copies of a resource. `device`: GLOBAL for all devices."""

    def __init__(self, str name, int device):
        self.name = name
        self.device = device
        self.claims = []


cdef class Claim:
    """`needs`: (Budget, count) of each resource; `where`: whose it is, for errors."""

    def __init__(self, list needs, int64_t priority, str where):
        self.budgets = [budget for budget, _ in needs]
        self.counts = [count for _, count in needs]
        self.priority = priority
        self.where = where

    cdef int64_t due(self) noexcept:
        cdef int64_t due = self.turn
        cdef Budget budget
        for budget in self.budgets:
            due = max(due, budget.turn)
        return due

    cdef bint fits(self) noexcept:
        cdef Budget budget
        cdef Py_ssize_t i
        for i in range(len(self.budgets)):
            budget = <Budget>self.budgets[i]
            if budget.used + <int64_t>self.counts[i] > budget.limit:
                return False
        return True

    cdef bint fits_with(self, Claim other) noexcept:
        cdef Budget budget
        cdef Py_ssize_t i, k
        for i in range(len(self.budgets)):
            budget = <Budget>self.budgets[i]
            for k in range(len(other.budgets)):
                if other.budgets[k] is budget and (
                    budget.used + <int64_t>self.counts[i] + <int64_t>other.counts[k] > budget.limit
                ):
                    return False
        return True


cdef class Applicant:
    # The one of its claims that has its turn first.
    cdef Claim first(self):
        cdef Claim found = None
        cdef Claim claim
        for claim in self.claims:
            if found is None or claim.due() < found.due():
                found = claim
        return found

    cdef tuple order(self):
        return self.first().due(), self.number


cdef class RateLimiter:
    """`granted`: name -> device or GLOBAL -> count, of --rate-limit-resource; None or empty: as many copies of each
    resource as the instance asks for that asks for most."""

    def __init__(self, Reactor reactor, granted=None):
        self.reactor = reactor
        self.granted = granted or None
        self.budgets = {}
        self.waiting = {}

    # -- models come and go ------------------------------------------------------------------------

    def add(self, instances, groups, str where):
        """The claims of the `instances` (config Instance) of a version; None for those that need nothing. `groups`: its
        config's InstanceGroups; `where`: model and file, for errors. InvalidArg when an instance could never run, or a
        resource is of a device and global; nothing is kept then.
        """
        cdef Claim claim
        claims = []
        try:
            for instance in instances:
                group = groups[instance.group]
                claims.append(self._claim(instance, group, where) if group.resources else None)
            for claim in claims:
                if claim is not None:
                    self._check(claim)
        except BaseException:
            self.remove(claims)
            raise
        return claims

    def _claim(self, instance, group, str where):
        cdef Budget budget
        # Named again, the last one counts.
        needs = {
            (resource.name, GLOBAL if resource.is_global else instance.device): resource.count
            for resource in group.resources
        }
        made = []
        for (name, device), count in needs.items():
            if count == 0:
                continue
            budget = self.budgets.get((name, device))
            if budget is None:
                budget = self.budgets[name, device] = Budget(name, device)
            made.append((budget, count))
        claim = Claim(made, max(1, group.priority), f"'rate_limiter' of instance_group '{group.name}' of {where}")
        for budget, _ in made:
            budget.claims.append(claim)
            self._set_limit(budget)
        return claim

    def remove(self, claims):
        """Of instances that are gone."""
        cdef Claim claim
        cdef Budget budget
        for claim in claims:
            if claim is None:
                continue
            self._give_back(claim)
            for budget in claim.budgets:
                budget.claims.remove(claim)
                self._set_limit(budget)
                if not budget.claims:
                    self.budgets.pop((budget.name, budget.device), None)
        self.wake()

    def _set_limit(self, Budget budget):
        cdef Claim claim
        if self.granted is None:
            budget.limit = max([_count(claim, budget) for claim in budget.claims], default=0)
            return
        counts = self.granted.get(budget.name, {})
        if budget.device == GLOBAL:
            budget.limit = max(counts.values(), default=0)
        else:
            budget.limit = max(counts.get(budget.device, 0), counts.get(GLOBAL, 0))

    def _check(self, Claim claim):
        cdef Budget budget
        for budget, count in zip(claim.budgets, claim.counts):
            for name, device in self.budgets:
                if name == budget.name and (device == GLOBAL) != (budget.device == GLOBAL):
                    raise InvalidArg(
                        f"Resource \"{name}\" is present as both global and device-specific resource in the model "
                        f"configuration. (in {claim.where})"
                    )
            if count > budget.limit:
                raise InvalidArg(
                    f"Resource count for \"{budget.name}\" is limited to {budget.limit} which will prevent scheduling "
                    f"of one or more model instances, the minimum required count is {count} (in {claim.where}; the "
                    "limit is of --rate-limit-resource)"
                )

    # -- executions --------------------------------------------------------------------------------

    cdef bint acquire(self, Claim claim, Wakeable model) except -1:
        cdef Applicant applicant = self.waiting.get(model)
        cdef Py_ssize_t i
        assert not claim.held
        if not self._may_have(claim, model, applicant):
            if applicant is None:
                self.arrivals += 1
                applicant = Applicant.__new__(Applicant)
                applicant.model = model
                applicant.claims = []
                applicant.number = self.arrivals
                self.waiting[model] = applicant
            if claim not in applicant.claims:
                applicant.claims.append(claim)
            return False
        claim.held = True
        for i in range(len(claim.budgets)):
            (<Budget>claim.budgets[i]).used += <int64_t>claim.counts[i]
        return True

    cdef bint _may_have(self, Claim claim, Wakeable model, Applicant applicant) except -1:
        cdef Applicant other
        if not claim.fits():
            return False
        if self.waiting:
            mine = (claim.due(), self.arrivals + 1 if applicant is None else applicant.number)
            for other in self.waiting.values():
                if other.model is not model and other.order() < mine and not claim.fits_with(other.first()):
                    return False
        return True

    cdef int settle(self, Claim claim, Wakeable model, bint begun) except -1:
        cdef Applicant applicant = self.waiting.get(model)
        cdef Budget budget
        if applicant is not None and claim in applicant.claims:
            applicant.claims.remove(claim)
            if not applicant.claims:
                self.leave(model)
        if not begun:
            return self._give_back(claim)
        claim.turn = claim.due()
        for budget in claim.budgets:
            budget.turn = claim.turn
        claim.turn += claim.priority
        return 0

    cdef int release(self, Claim claim) except -1:
        return self._give_back(claim) or self.wake()

    cdef int _give_back(self, Claim claim) except -1:
        cdef Py_ssize_t i
        if claim.held:
            claim.held = False
            for i in range(len(claim.budgets)):
                (<Budget>claim.budgets[i]).used -= <int64_t>claim.counts[i]
        return 0

    cdef int leave(self, Wakeable model) except -1:
        if self.waiting.pop(model, None) is not None:
            self.wake()
        return 0

    cdef int wake(self) except -1:
        cdef Applicant applicant
        if len(self.waiting) > 1:
            for applicant in sorted(self.waiting.values(), key=_order):
                self.reactor.call_turn(applicant.model)
        else:
            for applicant in self.waiting.values():
                self.reactor.call_turn(applicant.model)
        return 0

    def usage(self):
        """Of each resource, sorted: name, device (GLOBAL for all together), copies, copies in use."""
        cdef Budget budget
        found = [(budget.name, budget.device, budget.limit, budget.used) for budget in self.budgets.values()]
        return sorted(found)


def _order(Applicant applicant):
    return applicant.order()


cdef int64_t _count(Claim claim, Budget budget) except -1:
    return claim.counts[claim.budgets.index(budget)]
