"""The conformance repository of dynamic batching: one model.py under several configs, one instance each."""

from __future__ import annotations

import shutil
from pathlib import Path

_MODEL = Path(__file__).parent / "python_models" / "shared" / "1" / "model.py"
_TENSORS = """
input { name: "X" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "SHARED" data_type: TYPE_INT32 dims: [ 3 ] }
instance_group { count: 1 kind: KIND_CPU }
"""
_LEVELS = "priority_levels: 3 default_priority_level: 2"
_TIMES_OUT = "default_timeout_microseconds: 150000"

BATCHERS = {
    "plain": "",
    "waits": "preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 250000",
    "patient": "preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 2000000",
    "levels": f"preferred_batch_size: [ 1 ] {_LEVELS}",
    "level_sizes": f"{_LEVELS} priority_queue_policy {{ key: 3 value {{ max_queue_size: 1 }} }}",
    "rejects": f"default_queue_policy {{ {_TIMES_OUT} }}",
    "delays": f"preferred_batch_size: [ 1 ] default_queue_policy {{ {_TIMES_OUT} timeout_action: DELAY "
              "allow_timeout_override: true }",
    "overrides": "default_queue_policy { default_timeout_microseconds: 5000000 allow_timeout_override: true }",
    "bounded": "preferred_batch_size: [ 1 ] default_queue_policy { max_queue_size: 3 }",
    "ordered": "preserve_ordering: true",
}  # fmt: skip


def write_scheduling(root: Path) -> Path:
    """Writes the repository and returns it."""
    for name, batching in BATCHERS.items():
        version = root / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(_MODEL, version / "model.py")
        config = f'backend: "python"\nmax_batch_size: 8\n{_TENSORS}dynamic_batching {{ {batching} }}\n'
        (root / name / "config.pbtxt").write_text(config)
    return root
