"""Loads and unloads other models."""

import triton_python_backend_utils as pb_utils
from helpers import outcome, said, what


class TritonPythonModel:
    def execute(self, requests):
        return [said(self.answer(*what(request).split())) for request in requests]

    def answer(self, verb, model, *more):
        call = {"load": pb_utils.load_model, "unload": pb_utils.unload_model, "ready": pb_utils.is_model_ready}[verb]
        return outcome(call, model, *more)
