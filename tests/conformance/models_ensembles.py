"""The conformance repository of ensembles: Python models, and ensembles over them that load or do not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

_FILES = Path(__file__).parent / "ensemble_models"


def _tensor(kind: str, name: str, dtype: str = "FP32", dims: str = "-1", more: str = "") -> str:
    return f'{kind} {{ name: "{name}" data_type: TYPE_{dtype} dims: [ {dims} ] {more} }}\n'


def _model(*tensors: str, more: str = "") -> str:
    return 'backend: "python"\ninstance_group { count: 1 kind: KIND_CPU }\n' + more + "".join(tensors)


_X, _Y = _tensor("input", "X"), _tensor("output", "Y")
_Z = _tensor("input", "Z")
_OPTIONAL = _tensor("input", "Z", more="optional: true")
# Name -> config; `count` is decoupled.
MODELS = {
    "one": _model(_X, _Y),
    "int": _model(_X, _tensor("output", "Y", "INT32")),
    "two": _model(_X, _Z, _Y),
    "opt": _model(_X, _OPTIONAL, _Y, _tensor("output", "TEXT", "STRING", "1")),
    "batched": _model(_X, _Y, more="max_batch_size: 8\n"),
    "three": _model(_tensor("input", "X", dims="3"), _tensor("output", "Y", dims="3")),
    "four": _model(_tensor("input", "X", dims="4"), _tensor("output", "Y", dims="4")),
    "split": _model(_X, _tensor("output", "Y1"), _tensor("output", "Y2")),
    "fail": _model(_X, _Y),
    "noout": _model(_X, _Y),
    "count": _model(_X, _Y, more="model_transaction_policy { decoupled: true }\n"),
    "broken": _model(_X, _Y),
    "left": _model(_X, _Y),
}


def _step(model: str, takes: Mapping[str, str], gives: Mapping[str, str], version: int = -1) -> str:
    maps = [f'input_map {{ key: "{key}" value: "{value}" }}' for key, value in takes.items()]
    maps += [f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in gives.items()]
    return f'step {{ model_name: "{model}" model_version: {version} {" ".join(maps)} }}\n'


def _ensemble(steps: Sequence[str], inputs: Sequence[str] = (), outputs: Sequence[str] = (), more: str = "") -> str:
    tensors = [*(inputs or [_tensor("input", "EX")]), *(outputs or [_tensor("output", "EY")])]
    return f'platform: "ensemble"\n{more}{"".join(tensors)}ensemble_scheduling {{\n{"".join(steps)}}}\n'


_TO_ONE = _step("one", {"X": "EX"}, {"Y": "EY"})
_EX, _EY = _tensor("input", "EX"), _tensor("output", "EY")
_EZ = _tensor("input", "EZ", more="optional: true")
ENSEMBLES = {
    "plain": _ensemble([_TO_ONE]),
    "chain": _ensemble([_step("one", {"X": "t"}, {"Y": "EY"}), _step("one", {"X": "EX"}, {"Y": "t"})]),
    "version": _ensemble([_step("one", {"X": "EX"}, {"Y": "EY"}, 1)]),
    "failing": _ensemble([_step("fail", {"X": "EX"}, {"Y": "EY"})]),
    "empty": _ensemble([_step("noout", {"X": "EX"}, {"Y": "EY"})]),
    "empty_between": _ensemble([_step("noout", {"X": "EX"}, {"Y": "t"}), _step("one", {"X": "t"}, {"Y": "EY"})]),
    "told": _ensemble(
        [_step("opt", {"X": "EX", "Z": "EZ"}, {"TEXT": "T"})], [_EX, _EZ], [_tensor("output", "T", "STRING", "1")]
    ),
    "needed": _ensemble([_step("two", {"X": "EX", "Z": "EZ"}, {"Y": "EY"})], [_EX, _EZ]),
    "unmapped_optional": _ensemble([_step("opt", {"X": "EX"}, {"Y": "EY"})]),
    "nested": _ensemble([_step("failing", {"EX": "EX"}, {"EY": "EY"})]),
    "batch_to_none": _ensemble([_TO_ONE], more="max_batch_size: 4\n"),
    "none_to_batch": _ensemble([_step("batched", {"X": "EX"}, {"Y": "EY"})]),
    "smaller": _ensemble([_step("batched", {"X": "EX"}, {"Y": "EY"})], more="max_batch_size: 4\n"),
    "halves": _ensemble(
        [_step("split", {"X": "EX"}, {"Y1": "t", "Y2": "EY2"}), _step("one", {"X": "t"}, {"Y": "EY"})],
        [_EX], [_EY, _tensor("output", "EY2")],
    ),
    "through": _ensemble([_TO_ONE], [_EX], [_EY, _tensor("output", "EX")]),
    "stream": _ensemble([_step("count", {"X": "EX"}, {"Y": "t"}), _step("one", {"X": "t"}, {"Y": "EY"})]),
    "stream_twice": _ensemble([_step("count", {"X": "EX"}, {"Y": "t"}), _step("count", {"X": "t"}, {"Y": "EY"})]),
    "stream_fails": _ensemble([_step("count", {"X": "EX"}, {"Y": "t"}), _step("fail", {"X": "t"}, {"Y": "EY"})]),
    "stream_parts": _ensemble(
        [_step("count", {"X": "EX"}, {"Y": "A"}), _step("one", {"X": "A"}, {"Y": "EY"})],
        [_EX], [_EY, _tensor("output", "A")],
    ),
    "says_decoupled": _ensemble([_TO_ONE], more="model_transaction_policy { decoupled: true }\n"),
    # These do not load.
    "stream_and_not": _ensemble(
        [_step("count", {"X": "EX"}, {"Y": "t"}), _step("two", {"X": "t", "Z": "EX"}, {"Y": "EY"})]
    ),
    "two_streams": _ensemble([
        _step("count", {"X": "EX"}, {"Y": "a"}), _step("count", {"X": "EX"}, {"Y": "b"}),
        _step("two", {"X": "a", "Z": "b"}, {"Y": "EY"}),
    ]),
    "no_input": _ensemble([_step("one", {"N": "EX"}, {"Y": "EY"})]),
    "no_output": _ensemble([_step("one", {"X": "EX"}, {"N": "EY"})]),
    "unmapped": _ensemble([_step("two", {"X": "EX"}, {"Y": "EY"})]),
    "types_in": _ensemble([_TO_ONE], [_tensor("input", "EX", "INT32")]),
    "types_between": _ensemble([_step("int", {"X": "EX"}, {"Y": "t"}), _step("one", {"X": "t"}, {"Y": "EY"})]),
    "types_out": _ensemble([_TO_ONE], [_EX], [_tensor("output", "EY", "INT32")]),
    "shape_in": _ensemble(
        [_step("three", {"X": "EX"}, {"Y": "EY"})], [_tensor("input", "EX", dims="4")],
        [_tensor("output", "EY", dims="3")],
    ),
    "shape_between": _ensemble(
        [_step("three", {"X": "EX"}, {"Y": "t"}), _step("four", {"X": "t"}, {"Y": "EY"})],
        [_tensor("input", "EX", dims="3")], [_tensor("output", "EY", dims="4")],
    ),
    "reshaped": _ensemble([_TO_ONE], [_tensor("input", "EX", more="reshape { shape: [ 1, -1 ] }")]),
    "larger": _ensemble([_step("batched", {"X": "EX"}, {"Y": "EY"})], more="max_batch_size: 16\n"),
    "missing": _ensemble([_step("nobody", {"X": "EX"}, {"Y": "EY"})]),
    "version_missing": _ensemble([_step("one", {"X": "EX"}, {"Y": "EY"}, 9)]),
    "over_broken": _ensemble([_step("broken", {"X": "EX"}, {"Y": "EY"})]),
    "over_over_broken": _ensemble([_step("over_broken", {"EX": "EX"}, {"EY": "EY"})]),
    "itself": _ensemble([_step("itself", {"EX": "EX"}, {"EY": "EY"})]),
    "over_left": _ensemble([_step("left", {"X": "EX"}, {"Y": "EY"})]),
}  # fmt: skip


def write_ensembles(root: Path) -> Path:
    """The repository, for explicit mode; returns `root`."""
    for name, config in {**MODELS, **ENSEMBLES}.items():
        version = root / name / "1"
        version.mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
        if name in MODELS:
            shutil.copy(_FILES / ("count.py" if name == "count" else "copy.py"), version / "model.py")
    (root / "broken" / "1" / "model.py").write_text("def (\n")
    return root
