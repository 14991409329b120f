"""End-to-end benchmarks: the real tritonserver and triton-async under perf_analyzer."""
