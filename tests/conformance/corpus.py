"""The whole corpus, and the groups it is replayed in."""

from __future__ import annotations

from . import (
    corpus_calls,
    corpus_clouds,
    corpus_control,
    corpus_ensembles,
    corpus_grpc,
    corpus_http_bad,
    corpus_http_infer,
    corpus_http_info,
    corpus_operations,
    corpus_options,
    corpus_override,
    corpus_python,
    corpus_python_life,
    corpus_python_streams,
    corpus_regions,
    corpus_routes,
    corpus_scheduling,
    corpus_sequences,
    corpus_trace,
)
from .cases import Case

# Each group is recorded in one file and replayed in order against one start of a server.
GROUPS: dict[str, tuple[Case, ...]] = {
    "http_info": corpus_http_info.CASES,
    "http_infer": corpus_http_infer.CASES,
    "http_bad": corpus_http_bad.CASES,
    "grpc": corpus_grpc.CASES,
    "control": corpus_control.CASES,
    "override": corpus_override.CASES,
    "trace": corpus_trace.CASES,
    "operations": corpus_operations.CASES,
    "regions": corpus_regions.CASES,
    "routes": corpus_routes.CASES,
    "calls": corpus_calls.CASES,
    "restricted": corpus_options.RESTRICTED,
    "broken": corpus_options.BROKEN,
    "namespaces": corpus_options.NAMESPACES,
    "forwarded": corpus_options.FORWARDED,
    "polled": corpus_options.POLLED,
    "sagemaker": corpus_clouds.SAGEMAKER,
    "vertex_ai": corpus_clouds.VERTEX_AI,
    "ensembles": corpus_ensembles.CASES,
    "python": corpus_python.CASES,
    "python_streams": corpus_python_streams.CASES,
    "python_life": corpus_python_life.CASES,
    "python_sequences": corpus_sequences.CASES,
    "python_scheduling": corpus_scheduling.CASES,
}
