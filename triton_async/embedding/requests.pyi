from collections.abc import Mapping
from typing import Any, Unpack

from triton_async.embedding.arguments import InferArguments
from triton_async.infer.request import InferRequest

def make_request(model: str, inputs: Mapping[str, Any], **arguments: Unpack[InferArguments]) -> InferRequest: ...
