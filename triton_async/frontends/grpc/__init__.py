"""v2 gRPC endpoint."""
