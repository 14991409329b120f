"""What a config may ask for and this release cannot do yet: refused at load, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from triton_async.errors import Unsupported

# Field -> (what is missing, whether the config asks for it).
FIELDS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("model_operations", "libraries of custom operators for other backends than onnxruntime",
     lambda c: bool(c.model_operations.op_library_filename) and c.backend not in ("", "onnxruntime")),
)


def unsupported(proto: Any) -> bool:
    """Whether the config asks for a capability that is not built."""
    return next(_asked(proto), None) is not None


def refuse_unsupported(proto: Any) -> None:
    """Unsupported, naming model and field, when the config asks for a capability that is not built."""
    for problem in unsupported_fields(proto):
        raise problem


def unsupported_fields(proto: Any) -> Iterator[Unsupported]:
    """One for each such field."""
    for field, missing in _asked(proto):
        verb = "are" if missing.endswith("s") else "is"
        yield Unsupported(
            f"'{field}' of model '{proto.name}' is not supported yet: "
            f"{missing} {verb} not part of this release"
        )


def _asked(proto: Any) -> Iterator[tuple[str, str]]:
    for field, missing, asks in FIELDS:
        if asks(proto):
            yield field, missing
    for step in proto.ensemble_scheduling.step:
        if step.model_namespace:
            yield f"ensemble_scheduling step '{step.model_name}' model_namespace", "the choice of a namespace"
    for group in proto.instance_group:
        where = f"instance_group '{group.name}'" if group.name else "instance_group"
        if group.secondary_devices:
            yield f"{where} secondary_devices", "the choice of accelerator cores"
