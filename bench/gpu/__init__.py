"""Measures the server on a GPU against the bare engine: `python -m bench.gpu`."""
