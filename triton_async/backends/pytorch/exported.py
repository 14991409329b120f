"""Exported programs and AOTInductor packages, the two kinds of `.pt2` files."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from triton_async.backends.pytorch.archive import (
    argument_paths,
    device_of_package,
    read_program,
    result_paths,
)
from triton_async.backends.pytorch.program import UNDECLARED, Port, Program
from triton_async.errors import InternalError, InvalidArg
from triton_async.importing import import_module

_NEEDS_TWO = re.compile(r"dim value is too small at 0, expected it to be >= 2, but got: 1\b")


class ExportedProgram(Program):
    """A program of torch.export, its graph called node by node. `device` None: where it was exported."""

    def __init__(self, torch: Any, reader: Any, path: Path, model: str, device: str | None) -> None:
        self._leaves, results = read_program(torch, reader, model)
        self.arguments = tuple(port for port in self._leaves if port.path)
        self.results = results
        # A failure would be logged with its traceback and told as another. A filter for each load: they overlap.
        logger = logging.getLogger("torch.export")
        quiet = _Quiet()
        try:
            logger.addFilter(quiet)
            program = torch.export.load(str(path))
            if device is not None:
                program = import_module("torch.export.passes").move_to_device_pass(program, device)
            self._module = program.module()
        except Exception as error:  # whatever PyTorch makes of the file
            raise InternalError(f"failed to load model '{model}': {_first_line(error, path)}") from None
        finally:
            logger.removeFilter(quiet)
        self._pytree: Any = import_module("torch.utils._pytree")
        self._in_spec = program.call_spec.in_spec
        self._constants = _constants(program)
        self._written, self._lent = _aliases(torch, program, self._leaves)

    def writes(self, argument: int) -> bool:
        """By the operators of the graph and the aliases they declare."""
        return self.arguments[argument].path in self._written

    def lends(self, result: int) -> bool:
        """By the operators of the graph, as `writes`."""
        return result in self._lent

    def call(self, arguments: Sequence[Any]) -> list[Any] | dict[str, Any]:
        """Leaves of the result, in order."""
        given = iter(arguments)
        leaves = [
            next(given) if port.path else constant for port, constant in zip(self._leaves, self._constants, strict=True)
        ]
        args, kwargs = self._pytree.tree_unflatten(leaves, self._in_spec)
        found: list[Any] = self._pytree.tree_leaves(self._module(*args, **kwargs))
        return found


class CompiledProgram(Program):
    """An AOTInductor package: native code of the file, as Triton's `torch_aoti` runs it.

    It says nothing of types, shapes or aliases: PyTorch checks each call, and arguments and results are copied.
    `batching`: the first dimension of every argument and result is that of the batch, and its rows are independent.
    """

    def __init__(
        self, torch: Any, reader: Any, path: Path, model: str, device: str | None, *, batching: bool
    ) -> None:
        self._torch = torch
        self._batching = batching
        self._needs_two = False
        made_for = device_of_package(reader)
        wanted = (device or made_for or "cpu").partition(":")
        if made_for and made_for != wanted[0]:
            raise InvalidArg(
                f"failed to load model '{model}': the AOTInductor package was compiled for '{made_for}' and its "
                f"instance is on '{wanted[0]}'"
            )
        try:
            index = int(wanted[2]) if wanted[2] else -1
            self._package = import_module("torch._inductor").aoti_load_package(str(path), device_index=index)
            in_spec, out_spec = self._package.loader.get_call_spec()
            self.arguments = tuple(Port("", name) for name in argument_paths(in_spec))
            self.results = tuple(
                Port(f"OUTPUT__{place}", name) for place, name in enumerate(result_paths(out_spec))
            )
        except Exception as error:  # whatever PyTorch makes of the file
            raise InternalError(f"failed to load model '{model}': {_first_line(error, path)}") from None

    def call(self, arguments: Sequence[Any]) -> list[Any] | dict[str, Any]:
        """Leaves of the result, in order."""
        if not self._needs_two or any(argument.shape[0] != 1 for argument in arguments):
            try:
                found: list[Any] = self._package.loader.boxed_run(list(arguments))
                return found
            except RuntimeError as error:
                if not (self._batching and _NEEDS_TWO.search(str(error))):
                    raise
        # The check of a package knows no batch of one, whatever the export allowed: a batch of its row twice.
        found = self._package.loader.boxed_run([self._torch.cat((argument, argument)) for argument in arguments])
        self._needs_two = True
        return [result[:1] for result in found]


class _Quiet(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING


def _first_line(error: Exception, path: Path) -> str:
    text = str(error).replace(f"{path.parent}/", "").strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _constants(program: Any) -> list[Any]:
    """What stands for each leaf of the call that is no tensor."""
    kinds = import_module("torch.export.graph_signature")
    return [
        spec.arg.value if isinstance(spec.arg, kinds.ConstantArgument) else None
        for spec in program.graph_signature.input_specs
        if spec.kind == kinds.InputKind.USER_INPUT
    ]


def _aliases(torch: Any, program: Any, leaves: Sequence[Port]) -> tuple[set[str], set[int]]:
    """Paths of the arguments that are written to, and the results that may be memory of arguments or of state.

    Follows through the graph which placeholders each value may share memory with.
    """
    kinds = import_module("torch.export.graph_signature")
    signature = program.graph_signature
    inputs = [spec.arg.name for spec in signature.input_specs if spec.kind == kinds.InputKind.USER_INPUT]
    paths = {name: port.path for name, port in zip(inputs, leaves, strict=True)}
    roots: dict[Any, set[str]] = {}
    written: set[str] = set()
    values: Sequence[Any] = ()
    for node in program.graph.nodes:
        if node.op == "output":
            values = node.args[0]
        elif node.op == "call_function":
            roots[node] = _shared_with(torch, node, roots, written)
        else:  # placeholders, and attributes: graphs of control flow
            roots[node] = {node.name}
    users = [
        value
        for spec, value in zip(signature.output_specs, values, strict=True)
        if spec.kind == kinds.OutputKind.USER_OUTPUT
    ]
    lent = {place for place, value in enumerate(users) if not isinstance(value, torch.fx.Node) or roots[value]}
    written.update(signature.user_inputs_to_mutate.values())
    return {paths[name] for name in written if name in paths}, lent


def _shared_with(torch: Any, node: Any, roots: dict[Any, set[str]], written: set[str]) -> set[str]:
    """Placeholders that the result of a node may share memory with; adds those it writes to to `written`."""
    everything = set().union(*(roots[given] for given in node.all_input_nodes))
    if not isinstance(node.target, torch._ops.OpOverload):
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            written |= everything
        return everything
    schema = node.target._schema
    shared: set[str] = set()
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is None:
            continue
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        given = value if isinstance(value, list | tuple) else (value,)
        found = set().union(*(roots[one] for one in given if isinstance(one, torch.fx.Node)))
        shared |= found
        if argument.alias_info.is_write:
            written |= found
    if UNDECLARED.match(schema.name):
        return everything
    return shared if any(result.alias_info is not None for result in schema.returns) else set()
