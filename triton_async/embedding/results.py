"""Responses as callers in the same process get them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from triton_async.datatypes import to_name
from triton_async.infer.response import InferResponse


class Response(Mapping[str, "np.ndarray[Any, Any]"]):
    """One response to a request: a mapping of the names of its outputs to arrays.

    Arrays are views of the server's memory, read-only, and keep it as long as they live: copy what is to be changed,
    or kept for long. Elements of BYTES outputs are `bytes` in an array of objects; BF16 comes as its bit patterns in
    uint16. Any thread.
    """

    __slots__ = ("_arrays", "_response", "_tensors")

    def __init__(self, response: InferResponse) -> None:
        self._response = response
        self._tensors = {tensor.name: tensor for tensor in response.outputs}
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}

    @property
    def model_name(self) -> str:
        return self._response.model_name

    @property
    def model_version(self) -> int:
        """The version that answered."""
        return self._response.model_version

    @property
    def request_id(self) -> str:
        """As the request gave it."""
        identifier: str = self._response.request.id
        return identifier

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Those of the response; empty for none."""
        return self._response.parameters or {}

    @property
    def final(self) -> bool:
        """Whether no further response follows."""
        return self._response.final

    def datatype(self, name: str) -> str:
        """The v2 name of an output's type, as "FP32". KeyError."""
        return to_name(self._tensors[name].datatype)

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = self._tensors[name].numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        outputs = ", ".join(repr(tensor) for tensor in self._tensors.values())
        return f"Response({self.model_name!r}, version {self.model_version}, [{outputs}])"
