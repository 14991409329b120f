"""The JSON form of a model config, as Triton's GET .../config prints it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor


def config_json(proto: Any) -> dict[str, Any]:
    """`proto` as a dict: field names of the proto in its order, scalars and lists with their defaults, 64-bit
    integers as numbers, enums by name, unset messages left out.
    """
    return _message(proto, proto.DESCRIPTOR)


def _message(proto: Any, descriptor: Descriptor) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for field in descriptor.fields:
        value = getattr(proto, field.name)
        if _is_map(field):
            out[field.name] = _map(field, value)
        elif field.is_repeated:
            out[field.name] = [_single(field, item) for item in value]
        elif not field.has_presence or proto.HasField(field.name):
            out[field.name] = _single(field, value)
    return out


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def _map(field: FieldDescriptor, value: Any) -> dict[str, Any]:
    entry = field.message_type
    assert entry is not None
    item = entry.fields_by_name["value"]
    # Sorted: the order of a protobuf map is no one's.
    return {str(key): _single(item, value[key]) for key in sorted(value)}


def _single(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return _message(value, field.message_type)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return _number(float(str(np.float32(value))))
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return _number(value)
    return value


def _number(value: float) -> float | str:
    # Protobuf's JSON writes what JSON has no number for as text.
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    # And whole numbers without a point.
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
