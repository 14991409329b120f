"""Lies beside every model.py of the conformance repository: how models are asked and how they answer."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


def what(request):
    """The word that the request's input WHAT holds."""
    return pb_utils.get_input_tensor_by_name(request, "WHAT").as_numpy().reshape(-1)[0].decode()


def lines(*texts):
    """The output TEXT."""
    return pb_utils.Tensor("TEXT", np.array(texts, dtype=object))


def text(*texts):
    """A response with the output TEXT."""
    return pb_utils.InferenceResponse([lines(*texts)])


def said(value):
    """A response whose TEXT is `value` as JSON."""
    return text(json.dumps(value, sort_keys=True))


def floats(*values):
    """The output OUT."""
    return pb_utils.Tensor("OUT", np.array(values, dtype=np.float32))


def outcome(function, *arguments, **named):
    """What the call returns, or the name and text of its exception."""
    try:
        return function(*arguments, **named)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"


def kind(function, *arguments, **named):
    """The name of the exception that the call raises; "" for none. For texts that are the binding's own."""
    try:
        function(*arguments, **named)
    except Exception as problem:
        return type(problem).__name__
    return ""
