"""The same as serve.yaml from Python, on a Ray cluster or on this machine alone.

python examples/ray_serve/deploy.py models add_sub
"""

from __future__ import annotations

import sys

import ray
from ray import serve
from ray.serve.config import gRPCOptions

import triton_async.ray


def main() -> None:
    """Serves until it is interrupted."""
    repository, *models = sys.argv[1:] or ["models"]
    ray.init()
    serve.start(
        http_options={"host": "0.0.0.0", "port": 8000},
        grpc_options=gRPCOptions(
            port=8001,
            grpc_servicer_functions=["triton_async.ray.add_GRPCInferenceServiceServicer_to_server"],
        ),
    )
    scaling = {"min_replicas": 1, "max_replicas": 4}
    serve.run(
        triton_async.ray.deployment(repository=repository, model=models, autoscaling_config=scaling), blocking=True
    )


if __name__ == "__main__":
    main()
