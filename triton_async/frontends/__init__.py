"""HTTP, gRPC and metrics endpoints over core.server."""
