"""Triton's Python backend: models that are a `model.py`, in the server process or in processes of their own."""
