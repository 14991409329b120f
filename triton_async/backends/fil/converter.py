"""Run by `conversion` as a program of its own: reads a model through treelite and leaves its trees as arrays.

    converter.py {treelite | xgboost | pickle} MODEL RESULT.npz MEMORY-LIMIT

Imports nothing of this package. Exit status 3: a library is missing; 1: the file can not be read; the last line on
stderr says why.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

NODE_FIELDS = ("cleft", "cright", "split_index", "threshold", "leaf_value", "default_left")


class Refused(Exception):
    pass


def main() -> int:
    kind, path, result, limit = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = int(limit) if hard == resource.RLIM_INFINITY else min(int(limit), hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        import numpy as np
        import treelite
    except ImportError as error:
        return say(f"it is read by treelite, which can not be imported ({error}): install triton-async[fil]", 3)
    try:
        extra: dict[str, Any] = {}
        notes = [f"read by treelite {treelite.__version__}"]
        header: dict[str, Any] = {"format": "a treelite checkpoint", "notes": notes}
        if kind == "pickle":
            model = from_pickle(treelite, path, header, extra)
        elif kind == "xgboost":
            header["format"] = "an XGBoost binary model"
            model = treelite.frontend.load_xgboost_model_legacy_binary(path)
        else:
            model = treelite.Model.deserialize(path)
        arrays = convert(np, model, header)
        arrays.update(extra)
        np.savez(result, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    except ImportError as error:
        return say(f"it needs a library that can not be imported: {error}", 3)
    except MemoryError:
        return say("reading it takes too much memory", 1)
    except Exception as error:
        return say(f"treelite {treelite.__version__}: {type(error).__name__}: {error}" if not isinstance(error, Refused)
                   else str(error), 1)  # fmt: skip
    return 0


def say(text: str, status: int) -> int:
    sys.stderr.write("\n" + " ".join(text.split())[:600] + "\n")
    return status


def from_pickle(treelite: Any, path: str, header: dict[str, Any], extra: dict[str, Any]) -> Any:
    """A model of a pickled estimator, with what its own predict_proba, or predict, says of some rows."""
    import pickle
    import warnings

    import numpy as np

    version = ""
    try:
        import sklearn

        version = f" scikit-learn {sklearn.__version__} is installed here;"
    except ImportError:
        pass
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with open(path, "rb") as file:
                estimator = pickle.load(file)
        except Exception as error:
            raise Refused(
                f"the pickle can not be loaded: {type(error).__name__}: {error};{version} it needs the version that "
                "wrote it: convert it there, to a treelite checkpoint"
            ) from None
    header["notes"] += [str(one.message).split(". ")[0] for one in caught][:3]
    name = type(estimator).__name__
    header["format"] = f"a pickled {type(estimator).__module__.split('.')[0]}.{name}"
    if hasattr(estimator, "save_raw") or hasattr(estimator, "booster_") or hasattr(estimator, "get_booster"):
        raise Refused(f"it is a pickled {name}: save the model by its own save_model, which keeps all of it")
    if hasattr(estimator, "as_treelite") and not type(estimator).__module__.startswith("sklearn"):
        return estimator.as_treelite()
    if not type(estimator).__module__.startswith("sklearn"):
        raise Refused(
            f"it is a pickled {type(estimator).__module__}.{name}: only tree ensembles of scikit-learn and cuML"
        )
    model = treelite.sklearn.import_model(estimator)
    histogram = name.startswith("HistGradientBoosting")
    header["float32_rows"] = not histogram
    loss = getattr(estimator, "loss", "")
    header["exponential_loss"] = name == "GradientBoostingClassifier" and loss == "exponential"
    rng = np.random.default_rng(0)
    columns = int(estimator.n_features_in_)
    if not (histogram and getattr(estimator, "is_categorical_", None) is not None):
        rows = rng.normal(size=(64, columns)).astype(np.float32)
        if name == "IsolationForest":
            expected = -estimator.score_samples(rows)
        elif hasattr(estimator, "predict_proba"):
            expected = estimator.predict_proba(rows)
        else:
            expected = estimator.predict(rows)
        if not isinstance(expected, list):
            extra["sample"] = rows.astype(np.float64)
            extra["expected"] = np.asarray(expected, np.float64).reshape(len(rows), -1)
    return model


def convert(np: Any, model: Any, header: dict[str, Any]) -> dict[str, Any]:
    """Arrays of all trees, one behind the other, and the rest in `header`."""
    top = model.get_header_accessor()

    def whole(name: str) -> Any:
        return np.asarray(top.get_field(name))

    def text(name: str) -> str:
        found = top.get_field(name)
        return found if isinstance(found, str) else bytes(np.asarray(found, np.uint8)).decode()

    targets, classes = int(whole("num_target")[0]), whole("num_class").astype(int)
    most = max(1, int(classes.max()))
    class_ids, target_ids = whole("class_id").astype(int), whole("target_id").astype(int)
    shape = whole("leaf_vector_shape").astype(int)
    n_outputs = targets * most
    width = int(shape[0]) * int(shape[1])
    n_trees = model.num_tree
    if width > 1 and n_outputs not in (width,) and (class_ids[:n_trees] >= 0).any() | (target_ids[:n_trees] >= 0).any():
        raise Refused("its leaves are vectors for some of the outputs only, which is not supported")
    parts: dict[str, list[Any]] = {name: [] for name in (
        "left", "right", "feature", "threshold", "default_left", "value", "cover", "ends", "output", "set_node",
        "set_right", "set_ends", "members", "member_ends")}  # fmt: skip
    operators: set[str] = set()
    state: dict[str, Any] = {
        "covers": True, "nodes": 0, "sets": 0, "members": 0, "f32": True, "operators": operators,
    }  # fmt: skip
    for i in range(n_trees):
        add_tree(np, model.get_tree_accessor(i), parts, state, width)
        target, cls = int(target_ids[i]), int(class_ids[i])
        vector = width > 1
        parts["output"].append(-1 if vector else max(target, 0) * most + max(cls, 0))
    if len(operators) > 1 or operators - {"<", "<="}:
        raise Refused(f"its trees compare by {', '.join(sorted(operators))}, which is not supported")
    link, alpha = text("postprocessor"), float(whole("sigmoid_alpha")[0])
    if link == "exponential_standard_ratio":
        alpha = float(whole("ratio_c")[0])
    if header.pop("exponential_loss", False):
        alpha = 2.0
    binary = text_of_task(top) == "kBinaryClf"
    base = np.asarray(whole("base_scores"), np.float64)
    average = bool(whole("average_tree_output")[0])
    each = most if width == 1 and most > 1 and targets == 1 else 1
    header.update(
        n_features=model.num_feature, n_outputs=n_outputs, n_classes=most, link=link, alpha=alpha, leaf_width=width,
        classifier=binary or most > 1, float32=state["f32"], float32_rows=header.get("float32_rows", state["f32"]),
        or_equal=operators != {"<"}, divisor=max(n_trees // each, 1) if average else 1, covers=bool(state["covers"]),
    )  # fmt: skip
    joined = {name: np.concatenate(found) if found and hasattr(found[0], "dtype") else np.asarray(found, np.int64)
              for name, found in parts.items()}  # fmt: skip
    joined["member_ends"] = np.concatenate(([0], np.asarray(parts["member_ends"], np.int64))).astype(np.int64)
    joined["base"] = base if len(base) == n_outputs else np.resize(base, n_outputs)
    return joined


def text_of_task(top: Any) -> str:
    found = top.get_field("task_type")
    if isinstance(found, str):
        return found
    return {0: "kBinaryClf", 1: "kRegressor", 2: "kMultiClf"}.get(int(found[0]), "")


def add_tree(np: Any, tree: Any, parts: dict[str, list[Any]], state: dict[str, Any], width: int) -> None:
    def field(name: str) -> Any:
        return np.asarray(tree.get_field(name))

    left, threshold = field("cleft").astype(np.int64), field("threshold")
    n = len(left)
    state["f32"] = state["f32"] and threshold.dtype == np.float32
    kinds, compares = field("node_type").astype(int), field("cmp").astype(int)
    # treelite's numbers: node types 0 leaf, 1 numerical, 2 categorical; operators 1 ==, 2 <, 3 <=, 4 >, 5 >=.
    for number in np.unique(compares[kinds == 1]).tolist():
        state["operators"].add({1: "==", 2: "<", 3: "<=", 4: ">", 5: ">="}.get(number, str(number)))
    parts["left"].append(left)
    parts["right"].append(field("cright").astype(np.int64))
    parts["feature"].append(field("split_index").astype(np.int64))
    parts["threshold"].append(threshold.astype(np.float64))
    parts["default_left"].append(field("default_left").astype(np.int64))
    values = field("leaf_value").astype(np.float64)
    if width > 1:
        vectors = np.zeros((n, width))
        flat, begin, end = (field(name) for name in ("leaf_vector", "leaf_vector_begin", "leaf_vector_end"))
        for node in np.flatnonzero(left < 0).tolist():
            if int(end[node]) - int(begin[node]) == width:
                vectors[node] = flat[int(begin[node]) : int(end[node])]
            else:
                vectors[node] = values[node]
        values = vectors.ravel()
    parts["value"].append(values)
    cover = np.ones(n)
    for present, name in (("sum_hess_present", "sum_hess"), ("data_count_present", "data_count")):
        there = field(present)
        if len(there) == n and there.all():
            cover = field(name).astype(np.float64)
            break
    else:
        state["covers"] = False
    parts["cover"].append(cover)
    if (kinds == 2).any():
        members, begin, end = (field(name) for name in ("category_list", "category_list_begin", "category_list_end"))
        right = field("category_list_right_child")
        for node in np.flatnonzero(kinds == 2).tolist():
            own = members[int(begin[node]) : int(end[node])].astype(np.int64)
            parts["members"].append(own)
            state["members"] += len(own)
            parts["set_node"].append(node)
            parts["set_right"].append(int(right[node]))
            parts["member_ends"].append(state["members"])
            state["sets"] += 1
    parts["set_ends"].append(state["sets"])
    state["nodes"] += n
    parts["ends"].append(state["nodes"])


if __name__ == "__main__":
    sys.exit(main())
