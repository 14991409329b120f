"""TorchScript files. Loading one runs no Python: PyTorch reads their code and data itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from triton_async.backends.pytorch.program import UNDECLARED, Port, Program
from triton_async.errors import InternalError

_ALLOWED = "Only a single input of type Dict(str, Tensor) or input(s) of type Tensor are supported."


class ScriptProgram(Program):
    """A TorchScript module. `device` None: its tensors stay on the devices that the file names."""

    def __init__(self, torch: Any, path: Path, model: str, device: str | None) -> None:
        try:
            module = torch.jit.load(str(path), map_location=device)
        except Exception as error:  # whatever PyTorch makes of the file
            text = str(error).replace(f"{path.parent}/", "").split("\nException raised from ", maxsplit=1)[0]
            raise InternalError(f"failed to load model '{model}': {text.strip()}") from None
        if not module._c._has_method("forward"):
            raise InternalError(f"failed to load model '{model}': the module has no method 'forward'")
        # The module's __call__ would look for hooks first; a file has none.
        self._forward = module._c._get_method("forward")
        self.arguments, self.takes_dictionary = _arguments(self._forward.schema)
        self._analyse(torch)

    def writes(self, argument: int) -> bool:
        """Conservative: by the alias analysis of the compiled graph."""
        return self._writes[argument]

    def lends(self, result: int) -> bool:
        """Conservative, as `writes`."""
        return self._lends[min(result, len(self._lends) - 1)]

    def call(self, arguments: Sequence[Any]) -> list[Any] | dict[str, Any]:
        """A tuple of results as a list, and a list of tensors as it is."""
        found = self._forward(*arguments)
        if isinstance(found, tuple):
            return list(found)
        if isinstance(found, dict):
            return found
        if isinstance(found, list) and found and not isinstance(found[0], str):
            return found
        return [found]

    def _analyse(self, torch: Any) -> None:
        graph = self._forward.graph.copy()
        torch._C._jit_pass_inline(graph)
        hidden = _show_aliases(graph)
        aliases = graph.alias_db()
        module, *inputs = graph.inputs()
        results = list(graph.outputs())
        if len(results) == 1 and results[0].node().kind() == "prim::TupleConstruct":
            results = list(results[0].node().inputs())
        self._writes = tuple(hidden or aliases.has_writers(value) for value in inputs)
        self._lends = tuple(
            hidden or any(aliases.may_contain_alias(value, source) for source in (module, *inputs))
            for value in results
        )


def _show_aliases(block: Any) -> bool:
    """Makes results of operators that may be their argument the argument; True when one has several of them."""
    hidden = False
    for node in block.nodes():
        for inner in node.blocks():
            hidden = _show_aliases(inner) or hidden
        if not UNDECLARED.match(node.kind()):
            continue
        source, made = next(node.inputs()), node.output()
        if str(source.type()) == str(made.type()) == "Tensor":
            made.replaceAllUsesWith(source)
        else:
            hidden = True
    return hidden


def _arguments(schema: Any) -> tuple[tuple[Port, ...], bool]:
    arguments = schema.arguments[1:]  # after self
    kinds = [argument.type.kind() for argument in arguments]
    if kinds == ["DictType"]:
        if str(arguments[0].type) != "Dict[str, Tensor]":
            raise InternalError(
                f"An input of type '{arguments[0].type}' was detected in the model. {_ALLOWED}"
            )
        return (Port(arguments[0].name),), True
    if "DictType" in kinds:
        raise InternalError(
            "Multiple inputs of kind DictType were detected. Only a single input of type Dict(str, Tensor) is "
            "supported."
        )
    for argument in arguments:
        if str(argument.type) not in ("Tensor", "List[str]"):
            raise InternalError(f"An input of type '{argument.type}' was detected in the model. {_ALLOWED}")
    return tuple(Port(a.name, strings=a.type.kind() == "ListType") for a in arguments), False
