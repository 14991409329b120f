"""Custom metrics; the input WHAT says what is done with them."""

import triton_python_backend_utils as pb_utils
from helpers import said, what


def family(name, kind="COUNTER", description="about it"):
    return pb_utils.MetricFamily(name=name, description=description, kind=getattr(pb_utils.MetricFamily, kind))


class TritonPythonModel:
    def initialize(self, args):
        self.counters = family("conformance_counter", description="counts things")
        self.counter = self.counters.Metric(labels={"model": "metrics", "version": "1"})
        self.bare = self.counters.Metric(labels={})
        self.gauges = family("conformance_gauge", "GAUGE")
        self.gauge = self.gauges.Metric(labels={"quoted": 'a"b'})

    def execute(self, requests):
        return [said(getattr(self, what(request))()) for request in requests]

    def count(self):
        self.counter.increment(2.5)
        self.counter.increment(0)
        self.bare.increment(1)
        return [self.counter.value(), self.bare.value()]

    def move(self):
        self.gauge.set(7)
        self.gauge.increment(1.5)
        self.gauge.increment(-10)
        return self.gauge.value()

    def again(self):
        """The same family and labels are the same metric."""
        self.second = family("conformance_counter", description="other")
        metric = self.second.Metric(labels={"version": "1", "model": "metrics"})
        metric.increment(10)
        return [metric.value(), self.counter.value()]
