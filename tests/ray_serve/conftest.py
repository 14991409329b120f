"""A cluster of two nodes on this machine. `make ray` installs Ray into an environment of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from ray_models import Ports


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two nodes; they share this machine's processors."""
    import ray
    from ray.cluster_utils import Cluster

    # The proxy of the head node would leave the other node's replicas alone while its own take more.
    os.environ["RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING"] = "0"
    # Ray gives a proxy five seconds to start, which a busy machine does not have.
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"
    nodes = Cluster(initialize_head=True, head_node_args={
        "num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False,
        "dashboard_host": "127.0.0.1",
    })  # fmt: skip
    nodes.add_node(num_cpus=2, object_store_memory=80 << 20)
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, log_to_driver=False, logging_level="warning")
    try:
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture(scope="session")
def ports(cluster: Any) -> Iterator[Ports]:
    """Serve runs, with our services at its gRPC proxy."""
    from ray import serve
    from ray.serve.config import gRPCOptions

    found = Ports()
    functions = ["add_GRPCInferenceServiceServicer_to_server", "add_HealthServicer_to_server"]
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": "127.0.0.1", "port": found.http},
        grpc_options=gRPCOptions(
            port=found.grpc, grpc_servicer_functions=[f"triton_async.ray.{name}" for name in functions]
        ),
    )
    try:
        yield found
    finally:
        serve.shutdown()
