"""Message classes of the wire protocol and of model configs, built from the compiled `protos/*.proto`.

They live in a descriptor pool of their own, so a program may import `tritonclient` beside us: both
describe the same message names, and the default pool would refuse the second description.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_files = descriptor_pb2.FileDescriptorSet.FromString(
    files(__package__).joinpath("inference.desc").read_bytes()
)
POOL = descriptor_pool.DescriptorPool()
for _file in _files.file:
    POOL.Add(_file)

FILE_NAMES: tuple[str, ...] = tuple(file.name for file in _files.file)


def message(name: str) -> Any:
    """Message class by full name, e.g. `inference.ModelConfig`. KeyError when the protos have none."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


def enum(name: str) -> Any:
    """Enum descriptor by full name, e.g. `inference.DataType`."""
    return POOL.FindEnumTypeByName(name)


ModelConfig = message("inference.ModelConfig")
