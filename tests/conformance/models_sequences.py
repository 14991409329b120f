"""The conformance repository of sequences: one model.py under several configs."""

from __future__ import annotations

import shutil
from pathlib import Path

_MODEL = Path(__file__).parent / "python_models" / "steps" / "1" / "model.py"
_TENSORS = """
input { name: "X" data_type: TYPE_FP32 dims: [ 1 ] }
output [ { name: "TOTAL" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "TOLD" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group { count: 1 kind: KIND_CPU }
"""


def _control(name: str, kind: str, values: str) -> str:
    return f'control_input {{ name: "{name}" control {{ kind: CONTROL_SEQUENCE_{kind} {values} }} }}\n'


_ALL = (
    _control("READY", "READY", "bool_false_true: [ false, true ]")
    + _control("CORRID", "CORRID", "data_type: TYPE_UINT64")
    + _control("END", "END", "fp32_false_true: [ -1, 7 ]")
    + _control("START", "START", "int32_false_true: [ 0, 1 ]")
)


def _config(rows: int, batching: str, more: str = "") -> str:
    return f'backend: "python"\nmax_batch_size: {rows}\n{_TENSORS}sequence_batching {{ {batching} }}\n{more}'


_LONG = "max_sequence_idle_microseconds: 60000000\n"
SEQUENCES = {
    "direct": _config(4, f"direct {{ }} {_LONG}{_ALL}"),
    "oldest": _config(4, f"oldest {{ max_candidate_sequences: 8 }} {_LONG}{_ALL}"),
    "alone": _config(0, f"{_LONG}{_ALL}"),
    "bare": _config(4, f"oldest {{ max_candidate_sequences: 8 }} {_LONG}"),
    "small": _config(1, _LONG + _control("ID", "CORRID", "data_type: TYPE_INT32")),
    "short": _config(1, "max_sequence_idle_microseconds: 300000\n" + _control("ID", "CORRID", "data_type: TYPE_INT64")),
    "defaults": _config(4, "oldest { max_candidate_sequences: 2 }"),
    "iterative": _config(4, "oldest { max_candidate_sequences: 8 } iterative_sequence: true"),
}


def write_sequences(root: Path) -> Path:
    """Writes the repository and returns it."""
    for name, config in SEQUENCES.items():
        version = root / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(_MODEL, version / "model.py")
        (root / name / "config.pbtxt").write_text(config)
    return root
