"""Tensors of a batch as PyTorch's, and PyTorch's results as tensors of a batch. Instance thread."""

from __future__ import annotations

from typing import Any

from triton_async import datatypes
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.tensor import Tensor, decode_bytes, encode_bytes, make

BOOL = datatypes.from_name("BOOL")
BYTES = datatypes.from_name("BYTES")
BF16 = datatypes.from_name("BF16")

# Attribute of torch by v2 name. The unsigned types above 8 bits came with PyTorch 2.3.
_DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BF16": "bfloat16",
}  # fmt: skip


class Dtypes:
    """Both directions between numbers of `datatypes` and dtypes of this PyTorch."""

    def __init__(self, torch: Any) -> None:
        found = {datatypes.from_name(name): getattr(torch, dtype, None) for name, dtype in _DTYPES.items()}
        self._to_torch: dict[int, Any] = {number: dtype for number, dtype in found.items() if dtype is not None}
        self._from_torch = {dtype: number for number, dtype in self._to_torch.items()}

    def to_torch(self, datatype: int) -> Any:
        """The dtype, None when PyTorch has none."""
        return self._to_torch.get(datatype)

    def from_torch(self, dtype: Any) -> int:
        """The datatype, 0 when there is none."""
        return self._from_torch.get(dtype, 0)


class Converter:
    """Conversions with one PyTorch. `device`: where tensors of the model are, None for the host."""

    def __init__(self, torch: Any, device: str | None = None) -> None:
        self.torch = torch
        self.dtypes = Dtypes(torch)
        self.device = device

    def argument(self, tensor: Tensor, private: bool) -> Any:
        """The tensor over the same bytes, or a copy that the model may write to when `private`; strings as a list."""
        torch = self.torch
        if tensor.datatype == BYTES:
            return decode_bytes(tensor)
        dtype = self.dtypes.to_torch(tensor.datatype)
        if not tensor.nbytes:
            return torch.empty(tensor.shape, dtype=dtype, device=self.device)
        array = tensor.numpy()
        if tensor.datatype == BOOL:
            # Kernels are compiled for bytes of 0 and 1; a client may send any.
            array = array.view("uint8") != 0
        elif private or not array.flags.aligned:
            array = array.copy()
        made = torch.from_numpy(array)
        if tensor.datatype == BF16:
            made = made.view(dtype)
        return made if self.device is None else made.to(self.device)

    def result(self, name: str, datatype: int, ones: int, value: Any, lent: bool) -> Tensor:
        """A tensor over the bytes of `value`, or over a copy when they are `lent`.

        `ones`: dimensions of 1 that a scalar gets, 0 when it can have none. InvalidArg, in Triton's words, when the
        value is not what the configuration says.
        """
        if datatype == BYTES or isinstance(value, list):
            return _strings(name, datatype, value)
        value = checked(self, name, datatype, value)
        if not value.dim():
            if not ones:
                raise InvalidArg(f"output '{name}' is a scalar which is not supported.")
            value = value.reshape((1,) * ones)
        value = value.detach().resolve_conj().resolve_neg()
        if value.device.type != "cpu":
            value = value.cpu()
        elif lent:
            value = value.clone(memory_format=self.torch.contiguous_format)
        value = value.contiguous()
        array = (value.view(self.torch.int16) if datatype == BF16 else value).numpy()
        return make(name, datatype, tuple(value.shape), array)


def checked(converter: Converter, name: str, datatype: int, value: Any) -> Any:
    """`value` when it is a dense tensor of this datatype; InvalidArg else."""
    torch = converter.torch
    if not isinstance(value, torch.Tensor):
        raise InvalidArg(f"output '{name}' must be of type Tensor or List[str], received {type(value).__name__}")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise InvalidArg(f"output '{name}' must be a dense tensor, received {_kind(value)}")
    provided = converter.dtypes.from_torch(value.dtype)
    if provided != datatype:
        shown = datatypes.to_config_name(provided) if provided else str(value.dtype)
        raise InvalidArg(
            f"configuration expects datatype {datatypes.to_config_name(datatype)} for output '{name}', model provides "
            f"{shown}"
        )
    return value


def _kind(value: Any) -> str:
    if value.is_meta:
        return "one without data"
    return f"a quantized one ({value.dtype})" if value.is_quantized else f"one of layout {value.layout}"


def _strings(name: str, datatype: int, value: Any) -> Tensor:
    strings = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if datatype != BYTES:
        if strings:
            raise InvalidArg(
                f"configuration expects datatype {datatypes.to_config_name(datatype)} for output '{name}', model "
                "provides TYPE_STRING"
            )
        raise InvalidArg(f"output '{name}' must be of type Tensor or List[str], received List")
    if not strings:
        raise InvalidArg(f"configuration expects datatype TYPE_STRING for output '{name}', model provides no List[str]")
    return make(name, BYTES, (len(value),), encode_bytes(value))


def failure(error: BaseException) -> InternalError:
    """What went wrong inside a model: the last line of its traceback, without the files of who wrote it."""
    if isinstance(error, UnicodeDecodeError):
        return InternalError("PyTorch execute failure: a string that the model returned is not UTF-8")
    text = str(error)
    if "Traceback of TorchScript" in text:
        text = text[text.rindex("Traceback of TorchScript") :]
        start = max(text.rfind("\nRuntimeError: "), 0)
        text = text[start:].removeprefix("\nRuntimeError: ")
        if not start:  # an exception class of the model's own code
            text = next((line for line in reversed(text.splitlines()) if line and line[0] != " "), "")
    text = text.split("\nException raised from ", maxsplit=1)[0].strip()
    return InternalError(f"PyTorch execute failure: {text or type(error).__name__}")
