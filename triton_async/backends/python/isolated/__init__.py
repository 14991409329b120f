"""Python models in worker processes: what the server does for them. Nothing that a worker says is trusted."""
