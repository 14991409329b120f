"""What a config takes over of one that a model or its backend has completed."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from triton_async.errors import InvalidArg
from triton_async.protos import ModelConfig as ModelConfigProto

# What they decide on; the rest of what they do to a config is ignored.
_COMPLETED = ("max_batch_size", "input", "output", "model_transaction_policy")
_SCHEDULING = ("dynamic_batching", "sequence_batching")


def take_over(proto: Any, completed: dict[str, Any], who: str, scheduling: tuple[str, ...] = _SCHEDULING[:1]) -> None:
    """Takes inputs, outputs, max_batch_size, the transaction policy and, where `proto` has no other, the `scheduling`
    of `completed`, a config as JSON. InvalidArg, which names `who`, when these are none.
    """
    made = ModelConfigProto()
    known = {key: completed[key] for key in _COMPLETED if key in completed}
    for field in scheduling:
        if field in completed and proto.WhichOneof("scheduling_choice") in (None, field):
            known[field] = completed[field]
    try:
        json_format.ParseDict(known, made, ignore_unknown_fields=len(scheduling) > 1)
    except json_format.ParseError as error:
        raise InvalidArg(f"{who} of model '{proto.name}' gave no valid config: {error}") from None
    proto.max_batch_size = made.max_batch_size
    for field in ("input", "output"):
        getattr(proto, field).clear()
        getattr(proto, field).extend(getattr(made, field))
    for field in (*scheduling, "model_transaction_policy"):
        if made.HasField(field):
            getattr(proto, field).CopyFrom(getattr(made, field))
