"""The fil backend as Triton's: what it completes of a config, what it answers, what it says of bad parameters.

Forests are written by hand: no library is needed.
"""

from __future__ import annotations

import json
import logging
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fil_models import LIGHTGBM, Loaded, document, parameters, stump, ubjson, write, xgboost_json

from triton_async.errors import InvalidArg, ServerError, Unavailable, Unsupported
from triton_async.memory.slab import SlabPool

BINARY = xgboost_json(stump(), stump(0.5, 1))
PLAIN = xgboost_json(stump(), objective="reg:squarederror", base="2.5E-1")
CLASSES = xgboost_json(stump(1), stump(2, 1), stump(3, 2), objective="multi:softprob", classes=3, base="0E0")
ROWS = [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def shapes(loaded: Loaded) -> list[Any]:
    config = loaded.config
    return [(io.name, io.dims) for io in (*config.inputs, *config.outputs)]


def test_everything_is_completed_from_the_file(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, {"xgboost.json": BINARY}), pool)
    assert shapes(loaded) == [("input__0", (3,)), ("output__0", (1,))]
    assert loaded.config.max_batch_size == 32768
    assert loaded.config.dynamic_batching is not None
    assert loaded.answer(ROWS).tolist() == [1, 0, 0]


def test_a_model_without_a_config_is_found_by_its_file(tmp_path: Path, pool: SlabPool) -> None:
    for i, name in enumerate(("xgboost.json", "xgboost.ubj", "xgboost.model", "model.txt")):
        data = LIGHTGBM.encode() if name == "model.txt" else BINARY
        directory = write(tmp_path, {name: data}, name=f"m{i}")
        (directory / "config.pbtxt").unlink()
        loaded = Loaded(directory, pool)
        assert (loaded.config.backend, loaded.config.max_batch_size) == ("fil", 32768)


@pytest.mark.parametrize(("config", "dims", "expected"), [
    ({}, (1,), [1, 0, 0]), ({"threshold": "0.9"}, (1,), [0, 0, 0]), ({"threshold": "0.3"}, (1,), [1, 0, 1]),
    ({"predict_proba": "true"}, (1,), [1.5, -1.5, -0.5]), ({"is_classifier": "false"}, (1,), [1.5, -1.5, -0.5]),
    ({"output_class": "false"}, (1,), [1.5, -1.5, -0.5]), ({"output_class": "true"}, (1,), [1, 0, 0]),
])  # fmt: skip
def test_two_classes(
    config: dict[str, str], dims: tuple[int, ...], expected: list[float], tmp_path: Path, pool: SlabPool
) -> None:
    loaded = Loaded(write(tmp_path, {"xgboost.json": BINARY}, parameters(**config)), pool)
    assert shapes(loaded)[1] == ("output__0", dims)
    if config.get("threshold") is None and expected[0] == 1.5:
        expected = [1 / (1 + math.exp(-margin)) for margin in expected]
    assert np.allclose(loaded.answer(ROWS), expected, rtol=1e-6)


def test_both_probabilities_where_the_config_has_two_columns(tmp_path: Path, pool: SlabPool) -> None:
    config = parameters(predict_proba="true") + 'output { name: "output__0" data_type: TYPE_FP32 dims: 2 }'
    answers = Loaded(write(tmp_path, {"xgboost.json": BINARY}, config), pool).answer(ROWS)
    assert answers.shape == (3, 2)
    assert np.array_equal(answers.sum(axis=1), [1, 1, 1])
    assert answers[0, 1] == pytest.approx(1 / (1 + math.exp(-1.5)))


def test_several_classes(tmp_path: Path, pool: SlabPool) -> None:
    numbers = Loaded(write(tmp_path, {"xgboost.json": CLASSES}, name="a"), pool)
    assert shapes(numbers)[1] == ("output__0", (1,))
    assert numbers.answer(ROWS).tolist() == [1, 0, 1]
    shares = Loaded(write(tmp_path, {"xgboost.json": CLASSES}, parameters(predict_proba="true"), name="b"), pool)
    assert shapes(shares)[1] == ("output__0", (3,))
    margins = np.array([1.0, 2.0, -3.0])
    assert np.allclose(shares.answer(ROWS[:1]), [np.exp(margins) / np.exp(margins).sum()], rtol=1e-6)
    raw = Loaded(write(tmp_path, {"xgboost.json": CLASSES}, parameters(output_margin="true"), name="c"), pool)
    assert raw.answer(ROWS[:1]).tolist() == [[1, 2, -3]]


def test_numbers(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, {"xgboost.json": PLAIN}), pool)
    assert loaded.answer(ROWS).tolist() == [1.25, -0.75, -0.75]
    assert loaded.answer([[np.nan, 0, 0], [np.inf, 0, 0], [-np.inf, 0, 0]]).tolist() == [-0.75, 1.25, -0.75]


def test_dims_of_one_are_left_out_as_fil_does(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, {"xgboost.json": PLAIN}), pool)
    first, second = loaded.run(np.zeros((1, 3), np.float32), np.ones((4, 3), np.float32))
    assert (first["output__0"].shape, second["output__0"].shape) == ((1,), (4,))
    assert second["output__0"].tolist() == [1.25] * 4
    assert loaded.run(np.zeros((0, 3), np.float32))[0]["output__0"].shape == (0,)


def test_any_number_of_rows_is_answered_the_same(tmp_path: Path, pool: SlabPool) -> None:
    rng = np.random.default_rng(0)
    trees = [stump(float(rng.normal()), i % 3, float(rng.normal())) for i in range(37)]
    loaded = Loaded(write(tmp_path, {"xgboost.ubj": ubjson(document(*trees, objective="reg:squarederror"))}), pool)
    rows = rng.normal(size=(1000, 3)).astype(np.float32)
    everything = loaded.answer(rows)
    for count in (1, 2, 7, 8, 9, 63, 64, 65, 129):
        assert np.array_equal(loaded.answer(rows[:count]), everything[:count])


def test_contributions_where_the_config_asks_for_them(tmp_path: Path, pool: SlabPool) -> None:
    config = 'output { name: "output__0" } output { name: "treeshap_output" }'
    loaded = Loaded(write(tmp_path, {"xgboost.json": PLAIN}, config, name="a"), pool)
    assert shapes(loaded)[2] == ("treeshap_output", (4,))
    (found,) = loaded.run(np.array(ROWS, np.float32))
    # A quarter of the training data went left: an unknown row gets 0.25 + 0.5.
    assert found["treeshap_output"].tolist() == [[0.5, 0, 0, 0.75], [-1.5, 0, 0, 0.75], [-1.5, 0, 0, 0.75]]
    assert found["output__0"].tolist() == [1.25, -0.75, -0.75]
    several = Loaded(write(tmp_path, {"xgboost.json": CLASSES}, config, name="b"), pool)
    assert shapes(several)[2] == ("treeshap_output", (3, 4))
    assert several.run(np.array(ROWS, np.float32))[0]["treeshap_output"].shape == (3, 3, 4)


def test_a_forest_without_trees_answers_with_its_base(tmp_path: Path, pool: SlabPool) -> None:
    config = 'output { name: "output__0" } output { name: "treeshap_output" }'
    data = xgboost_json(objective="reg:squarederror", base="2.5E-1")
    (found,) = Loaded(write(tmp_path, {"xgboost.json": data}, config), pool).run(np.array(ROWS, np.float32))
    assert found["output__0"].tolist() == [0.25] * 3
    assert found["treeshap_output"].tolist() == [[0, 0, 0, 0.25]] * 3


def test_lightgbm(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, {"model.txt": LIGHTGBM.encode()}, parameters(output_margin="true")), pool)
    rows = [[0.5, 0, 9], [0.6, 0, 1], [0.6, 0, 2.9], [0.6, 0, 0], [0.6, 0, -1], [0.6, 0, np.nan], [np.nan, 0, 9]]
    assert loaded.answer(rows).tolist() == [-0.875, 0.375, 0.375, 1.125, 1.125, 1.125, -0.875]


def test_doubles_in_and_out(tmp_path: Path, pool: SlabPool) -> None:
    config = """
        max_batch_size: 8
        input { name: "input__0" data_type: TYPE_FP64 dims: 3 }
        output { name: "output__0" data_type: TYPE_FP64 dims: 1 }
    """ + parameters(predict_proba="true")
    loaded = Loaded(write(tmp_path, {"model.txt": LIGHTGBM.encode()}, config), pool)
    between = 0.5 + 1e-12  # a float would be 0.5
    found = loaded.run(np.array([[0.5, 0, 1], [between, 0, 1]]))[0]["output__0"]
    assert found.dtype == np.float64
    assert found.tolist() == pytest.approx([1 / (1 + math.exp(0.875)), 1 / (1 + math.exp(-0.375))], rel=1e-15)


def test_a_model_without_batching_takes_rows_or_a_row(tmp_path: Path, pool: SlabPool) -> None:
    config = """
        max_batch_size: 0
        input { name: "input__0" data_type: TYPE_FP32 dims: [ -1, 3 ] }
        output { name: "output__0" data_type: TYPE_FP32 dims: [ -1, 1 ] }
    """
    loaded = Loaded(write(tmp_path, {"xgboost.json": PLAIN}, config), pool)
    assert loaded.answer(ROWS).tolist() == [1.25, -0.75, -0.75]


def test_parameters_without_effect_are_named(tmp_path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture) -> None:
    config = parameters(algo="ALGO_AUTO", storage_type="SPARSE", blocks_per_sm="2", threads_per_tree="4")
    with caplog.at_level(logging.INFO, logger="triton_async.backends.fil"):
        Loaded(write(tmp_path, {"xgboost.json": BINARY}, config), pool)
    assert "xgboost.json has 2 trees for 3 features (XGBoost 2.1.0, binary:logistic)" in caplog.text
    assert "no effect on the CPU" in caplog.text
    assert "algo, blocks_per_sm, storage_type, threads_per_tree" in caplog.text


@pytest.mark.parametrize(("config", "error", "text"), [
    (parameters(predict_proba="yes"), InvalidArg, "'true' or 'false' for parameter 'predict_proba', got: 'yes'"),
    (parameters(model_type="catboost"), Unsupported, "catboost not recognized as a valid serialization format"),
    (parameters(model_type="lightgbm"), InvalidArg, "from xgboost.json: it is a XGBoost model, and parameter 'model_t"),
    (parameters(threshold="half"), InvalidArg, "Bad input for parameter threshold: 'half'"),
    (parameters(precision="f16"), InvalidArg, "parameter 'precision' is 'f16', expected 'exact' or 'f32'"),
    (parameters(is_classifier="true", output_class="false"), InvalidArg, "mean the same and contradict each other"),
    (parameters(best_iteration="true"), InvalidArg, "'learner.attributes.best_iteration' is missing"),
    ('default_model_filename: "other.json"', Unavailable, "there is no model file in 'other.json'"),
    ('input { name: "input__0" data_type: TYPE_FP32 dims: 4 }', InvalidArg, r"shape \[-1,3\]"),
    ('input { name: "input__0" data_type: TYPE_INT32 dims: 3 }', InvalidArg, "expects datatype TYPE_INT32"),
    ('input { name: "x" data_type: TYPE_FP32 dims: 3 }', InvalidArg, "unexpected inference input 'x'"),
    ('output { name: "y" data_type: TYPE_FP32 dims: 1 }', InvalidArg, "unexpected inference output 'y'"),
    ('output { name: "output__0" data_type: TYPE_FP32 dims: 2 }', InvalidArg, r"shape \[-1,1\]"),
    ('output { name: "treeshap_output" data_type: TYPE_FP32 dims: 4 }', InvalidArg, "and output 'output__0'"),
])  # fmt: skip
def test_configs_that_do_not_fit_are_refused(
    config: str, error: type[ServerError], text: str, tmp_path: Path, pool: SlabPool
) -> None:
    with pytest.raises(error, match=text):
        Loaded(write(tmp_path, {"xgboost.json": BINARY}, config), pool)


def test_versions_with_no_model_say_what_was_expected(tmp_path: Path, pool: SlabPool) -> None:
    with pytest.raises(Unavailable, match=r"version directory '1', expected xgboost.model or one of xgboost.json, .*"):
        Loaded(write(tmp_path, {"readme": b""}, name="a"), pool)
    with pytest.raises(Unavailable, match=r"expected checkpoint.tl; name another one"):
        Loaded(write(tmp_path, {"readme": b""}, parameters(model_type="treelite_checkpoint"), name="b"), pool)


@pytest.mark.parametrize(("change", "text"), [
    (lambda d: d["learner"].update(extra=1), "unknown field 'learner.extra'.*xgboost_allow_unknown_field"),
    (lambda d: d["learner"]["gradient_booster"].update(name="gblinear"), "its booster is 'gblinear'"),
    (lambda d: d["learner"]["objective"].update(name="reg:new"), "its objective is 'reg:new'.*newer XGBoost"),
    (lambda d: d["learner"].pop("learner_model_param"), "'learner.learner_model_param' is missing"),
    (lambda d: tree_of(d)["left_children"].__setitem__(0, 3), "tree 0: a node's child is number 3 of 3 nodes"),
    (lambda d: tree_of(d)["left_children"].__setitem__(0, 0), "tree 0: its nodes are no tree"),
    (lambda d: tree_of(d)["left_children"].__setitem__(1, 2), "tree 0: a node has one child"),
    (lambda d: tree_of(d)["split_indices"].__setitem__(0, 3), "tree 0: a node splits feature 3 of 3"),
    (lambda d: tree_of(d)["split_indices"].__setitem__(0, -1), "tree 0: a node splits feature -1 of 3"),
    (lambda d: tree_of(d).update(
        left_children=[1, 1, 1], right_children=[2, 2, 2], leaf_weights=[1, 1], tree_param={
            "num_nodes": "3", "size_leaf_vector": "2"}), "leaves of 2 values for 1 outputs"),
    (lambda d: tree_of(d)["split_conditions"].append(1), r"trees\[0\].split_conditions' has 4 numbers, expected 3"),
    (lambda d: tree_of(d)["split_conditions"].__setitem__(0, math.nan), "tree 0: a threshold is not a number"),
    (lambda d: tree_of(d)["split_conditions"].__setitem__(1, math.nan), "tree 0: a leaf is not a number"),
    (lambda d: tree_of(d)["tree_param"].update(num_nodes="9999999999"), "num_nodes' is 9999999999, expected 1 to"),
    (lambda d: tree_of(d).update(split_type=[1, 0, 0]), "categories_nodes' lacks node 0"),
    (lambda d: d["learner"]["learner_model_param"].update(num_feature="0"), "the model has 0 features"),
    (lambda d: d["learner"]["learner_model_param"].update(base_score="x"), "base_score' is 'x', expected numbers"),
    (lambda d: d["learner"]["learner_model_param"].update(base_score="2"), "base_score' is 2.0, which has no margin"),
    (lambda d: d["learner"]["gradient_booster"]["model"].update(tree_info=[5, 0]), "it adds to output 5 of 1"),
])  # fmt: skip
def test_files_that_can_not_be_are_refused_with_file_and_field(
    change: Any, text: str, tmp_path: Path, pool: SlabPool
) -> None:
    made = document(stump(), stump())
    change(made)
    with pytest.raises(InvalidArg, match=f"unable to load model 'm' from xgboost.json: .*{text}"):
        Loaded(write(tmp_path, {"xgboost.json": json.dumps(made).encode()}), pool)


def test_a_tree_of_vectors_without_a_leaf_is_refused(tmp_path: Path, pool: SlabPool) -> None:
    made = document(stump(), objective="reg:squarederror", targets=2)
    tree_of(made).update(left_children=[1, 1, 1], right_children=[2, 2, 2], leaf_weights=[1, 1])
    tree_of(made)["tree_param"]["size_leaf_vector"] = "2"
    with pytest.raises(InvalidArg, match=r"tree 0: its nodes are no tree"):
        Loaded(write(tmp_path, {"xgboost.json": json.dumps(made).encode()}), pool)


def tree_of(made: dict[str, Any]) -> Any:
    return made["learner"]["gradient_booster"]["model"]["trees"][0]


def test_unknown_fields_are_let_through_on_request(tmp_path: Path, pool: SlabPool) -> None:
    made = document(stump())
    made["learner"]["extra"] = tree_of(made)["extra"] = 1
    config = parameters(xgboost_allow_unknown_field="true")
    loaded = Loaded(write(tmp_path, {"xgboost.json": json.dumps(made).encode()}, config), pool)
    assert loaded.answer(ROWS[:1]).tolist() == [1]


@pytest.mark.parametrize(("data", "text"), [
    (b"", "it is empty"), (b"PK\x03\x04 and more that is no model", "it is none of the formats"),
    (BINARY[:-40], "no valid JSON"), (ubjson(document(stump()))[:-40], "the UBJSON ends early"),
    (LIGHTGBM[:300].encode(), "'end of trees' is missing"),
    (LIGHTGBM.replace("version=v4", "version=v9").encode(), "its format is version 'v9'"),
    (LIGHTGBM.replace("left_child=-1 -2", "left_child=-1 -9").encode(), "'left_child' of tree 0 names a node"),
    (LIGHTGBM.replace("split_feature=0 2", "split_feature=0 7").encode(), "a node splits feature 7 of 3"),
    (LIGHTGBM.replace("cat_boundaries=0 1", "cat_boundaries=0 5").encode(), "'cat_boundaries' of tree 0"),
    (LIGHTGBM.replace("leaf_value=-1 0.25 1", "leaf_value=-1 0.25").encode(), "'leaf_value' of tree 0 has 2 numbers"),
    (LIGHTGBM.replace("objective=binary", "objective=new").encode(), "its objective is 'new'"),
    (b"\x80\x04\x95 a pickle", "it is a pickle, and loading a pickle runs whatever code is in it"),
])  # fmt: skip
def test_foreign_and_damaged_files_are_refused(data: bytes, text: str, tmp_path: Path, pool: SlabPool) -> None:
    with pytest.raises(InvalidArg, match=f"unable to load model 'm' from xgboost.json: .*{text}"):
        Loaded(write(tmp_path, {"xgboost.json": data}), pool)


@pytest.mark.parametrize("data", [
    LIGHTGBM.replace("num_leaves=3", "num_leaves=100000000").encode(),
    json.dumps({**document(), "learner": {**document(targets=1000000, objective="reg:squarederror")["learner"],
        "gradient_booster": {"name": "gbtree", "model": {"tree_info": [0], "trees": [{
            **stump(), "right_children": [2, 0, 0], "leaf_weights": [1.0] * 1000,
            "tree_param": {"num_nodes": "3", "size_leaf_vector": "1000000"}}]}}}}).encode(),
])  # fmt: skip
def test_sizes_that_are_only_claimed_take_no_memory(data: bytes, tmp_path: Path, pool: SlabPool) -> None:
    tracemalloc.start()
    with pytest.raises(InvalidArg, match=r"unable to load model 'm' from xgboost.json: .*numbers"):
        Loaded(write(tmp_path, {"xgboost.json": data}), pool)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000


def test_lengths_that_are_only_claimed_take_no_memory(tmp_path: Path, pool: SlabPool) -> None:
    bombs = [
        b"{L" + (1 << 62).to_bytes(8, "big") + b"x", b"{U\x01a[$d#L" + (1 << 60).to_bytes(8, "big"),
        b"{U\x01a[$T#L" + (1 << 40).to_bytes(8, "big"), b"{U\x01a" + b"[" * 100_000, b'{"a":' + b"[" * 100_000,
    ]  # fmt: skip
    for i, bomb in enumerate(bombs):
        with pytest.raises(InvalidArg, match="unable to load model"):
            Loaded(write(tmp_path, {"xgboost.json": bomb}, name=f"m{i}"), pool)
