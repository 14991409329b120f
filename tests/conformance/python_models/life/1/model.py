"""Tells what `initialize` was given and what this instance has lived through."""

import json
import os

import triton_python_backend_utils as pb_utils
from helpers import lines, said, what
from sibling import WHO

CALLS = []
JOURNAL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "journal.txt")


def write(line):
    with open(JOURNAL, "a", encoding="utf-8") as journal:
        journal.write(line + "\n")


class TritonPythonModel:
    def initialize(self, args):
        CALLS.append("initialize")
        self.args = args
        self.config = json.loads(args["model_config"])
        return "ignored"

    def execute(self, requests):
        CALLS.append("execute")
        return [said(getattr(self, what(request))()) for request in requests]

    def finalize(self):
        CALLS.append("finalize")
        write(" ".join(CALLS))
        raise ValueError("after all is done")

    def arguments(self):
        return {name: value for name, value in self.args.items() if name != "model_config"}

    def types(self):
        return sorted({type(value).__name__ for value in self.args.values()})

    def whole_config(self):
        return self.config

    def parameters(self):
        return self.config.get("parameters", {})

    def calls(self):
        return CALLS

    def module(self):
        from later import PLACE

        folder = os.path.dirname(os.path.abspath(__file__))
        return [__name__, WHO, PLACE, folder == pb_utils.get_model_dir(), type(lines("x")).__name__]
