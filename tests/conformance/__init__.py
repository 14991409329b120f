"""Compares triton-async with the real tritonserver, live or through its recorded answers."""
