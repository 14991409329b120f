"""Tensors, requests, responses, batches, and the check of a request against a model's signature."""
