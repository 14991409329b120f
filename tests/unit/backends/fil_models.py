"""Small forests written by hand, in the formats of the libraries; model directories loaded as the server does it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from inference import request, signature_of, values

from triton_async.backends.base import LoadContext, ModelInstance, execute_requests
from triton_async.backends.fil import FilBackend
from triton_async.config.autocomplete import ModelIO
from triton_async.config.load import load
from triton_async.memory.slab import SlabPool


def stump(value: float = 1.0, feature: int = 0, threshold: float = 0.5) -> dict[str, Any]:
    """A tree of one split: -value below the threshold, else value; missing goes left."""
    return {
        "base_weights": [0, 0, 0], "categories": [], "categories_nodes": [], "categories_segments": [],
        "categories_sizes": [], "default_left": [1, 0, 0], "id": 0, "left_children": [1, -1, -1],
        "loss_changes": [1, 0, 0], "parents": [2147483647, 0, 0], "right_children": [2, -1, -1],
        "split_conditions": [threshold, -value, value], "split_indices": [feature, 0, 0], "split_type": [0, 0, 0],
        "sum_hessian": [4, 1, 3],
        "tree_param": {"num_deleted": "0", "num_feature": "3", "num_nodes": "3", "size_leaf_vector": "1"},
    }  # fmt: skip


def document(*trees: dict[str, Any], objective: str = "binary:logistic", classes: int = 0, targets: int = 1,
             base: str = "5E-1") -> dict[str, Any]:  # fmt: skip
    """A model of XGBoost with these trees for three features."""
    groups = max(classes, targets, 1)
    return {
        "learner": {
            "attributes": {}, "feature_names": [], "feature_types": [],
            "gradient_booster": {
                "name": "gbtree",
                "model": {
                    "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
                    "iteration_indptr": list(range(0, len(trees) + 1, groups)),
                    "tree_info": [i % groups for i in range(len(trees))], "trees": list(trees),
                },
            },
            "learner_model_param": {
                "base_score": base, "num_class": str(classes), "num_feature": "3", "num_target": str(targets),
            },
            "objective": {"name": objective},
        },
        "version": [2, 1, 0],
    }  # fmt: skip


def xgboost_json(*trees: dict[str, Any], **options: Any) -> bytes:
    """The same as bytes."""
    return json.dumps(document(*trees, **options)).encode()


def ubjson(value: Any) -> bytes:
    """A value as XGBoost writes it: keys and strings with long lengths, arrays of numbers by type and count."""
    if isinstance(value, dict):
        return b"{" + b"".join(_text(key) + ubjson(item) for key, item in value.items()) + b"}"
    if isinstance(value, str):
        return b"S" + _text(value)
    if isinstance(value, list):
        if value and all(isinstance(item, int) for item in value):
            return b"[$l#L" + struct.pack(f">q{len(value)}i", len(value), *value)
        if value and all(isinstance(item, (int, float)) for item in value):
            return b"[$d#L" + struct.pack(f">q{len(value)}f", len(value), *value)
        return b"[" + b"".join(ubjson(item) for item in value) + b"]"
    if isinstance(value, int):
        return b"L" + struct.pack(">q", value)
    return b"d" + struct.pack(">f", value)


def _text(text: str) -> bytes:
    return b"L" + struct.pack(">q", len(text)) + text.encode()


LIGHTGBM = """tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=2
objective=binary sigmoid:1
feature_names=a b c
feature_infos=[-1:1] [-1:1] 0:1:2
tree_sizes=400 400

Tree=0
num_leaves=3
num_cat=1
split_feature=0 2
split_gain=1 1
threshold=0.5 0
decision_type=2 1
left_child=-1 -2
right_child=1 -3
leaf_value=-1 0.25 1
leaf_weight=1 1 1
leaf_count=5 3 2
internal_value=0 0
internal_weight=0 5
internal_count=10 5
cat_boundaries=0 1
cat_threshold=6
is_linear=0
shrinkage=1


Tree=1
num_leaves=1
num_cat=0
leaf_value=0.125
is_linear=0
shrinkage=1


end of trees

feature_importances:
a=1
"""


def write(root: Path, files: dict[str, bytes], config: str = "", name: str = "m") -> Path:
    """A model directory with these files as version 1."""
    directory = root / name
    (directory / "1").mkdir(parents=True)
    for file, data in files.items():
        (directory / "1" / file).write_bytes(data)
    (directory / "config.pbtxt").write_text(f'backend: "fil"\n{config}')
    return directory


def parameters(**values: str) -> str:
    """Lines of a config."""
    return "\n".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}' for key, text in values.items()
    )


class Loaded:
    """A model directory, configured and loaded as the server does it, with one instance."""

    def __init__(self, directory: Path, pool: SlabPool, backend_config: dict[str, str] | None = None) -> None:
        backend = FilBackend()
        backend.settings = backend_config or {}
        found: list[ModelIO] = []

        def inspect(name: str, path: Path, proto: Any) -> ModelIO:
            assert name == "fil"
            found.append(backend.inspect(path, proto))
            return found[-1]

        self.config = load(directory, directory.name, inspect=inspect)
        self.signature = signature_of(self.config)
        self.context = LoadContext(
            self.config, 1, directory / "1" / self.config.default_model_filename, self.signature, pool,
            backend.settings, opened=found[0].opened,
        )  # fmt: skip
        self.model = backend.load(self.context)
        self.instance = self.make_instance("m_0")

    def make_instance(self, name: str) -> ModelInstance:
        return self.model.create_instance(name, self.config.instance_groups[0], 0)

    def run(self, *rows: Any) -> list[dict[str, Any]]:
        """Outputs by name for requests of these rows, in one batch; raises an error."""
        requests = [request(input__0=np.asarray(one)) for one in rows]
        return [values(response) for response in execute_requests(self.instance, self.signature, requests)]

    def answer(self, rows: Any) -> Any:
        """output__0 of one request."""
        return self.run(np.asarray(rows, np.float32))[0]["output__0"]
