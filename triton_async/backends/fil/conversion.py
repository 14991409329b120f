"""Files that only treelite or pickle know are read in a process of their own (`converter.py`), which may crash or run
out of memory alone. What comes back is arrays, checked like those of any file. Load threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_async.backends.fil.defines import CONVERSION_MEMORY_FACTOR, CONVERSION_MEMORY_NBYTES, CONVERSION_TIMEOUT_S
from triton_async.backends.fil.ensemble import Categories, Ensemble, Fault, Link, Tree, Way
from triton_async.backends.fil.forest import Forest
from triton_async.backends.fil.layout import lay_out
from triton_async.errors import Unsupported

_LINKS = {
    "identity": Link.IDENTITY, "identity_multiclass": Link.IDENTITY, "signed_square": Link.SIGNED_SQUARE,
    "hinge": Link.HINGE, "sigmoid": Link.SIGMOID, "multiclass_ova": Link.SIGMOID, "exponential": Link.EXPONENTIAL,
    "exponential_standard_ratio": Link.EXPONENTIAL_RATIO, "logarithm_one_plus_exp": Link.LOG_ONE_PLUS_EXP,
    "softmax": Link.SOFTMAX,
}  # fmt: skip
# What a converter says with its exit status besides success.
_MISSING_LIBRARY = 3
_MOST_DIFFERENT = 1e-5

Arrays = dict[str, NDArray[Any]]


def convert(kind: str, path: Path, nbytes: int) -> Ensemble:
    """The ensemble in a treelite checkpoint, an old XGBoost binary or a pickle: `kind` is "treelite", "xgboost" or
    "pickle". Unsupported when a library is missing, Fault for what is no such file.
    """
    with tempfile.TemporaryDirectory(prefix="triton-async-fil-") as folder:
        result = Path(folder) / "ensemble.npz"
        _run(kind, path, nbytes, result)
        try:
            with np.load(result, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            header = json.loads(arrays.pop("header").tobytes())
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise Fault(f"the process that read it left no result ({type(error).__name__})") from None
    ensemble = _ensemble(header, arrays)
    if "sample" in arrays:
        _compare(ensemble, arrays["sample"], arrays["expected"], header)
    return ensemble


def _run(kind: str, path: Path, nbytes: int, result: Path) -> None:
    limit = CONVERSION_MEMORY_NBYTES + CONVERSION_MEMORY_FACTOR * nbytes
    program = Path(__file__).with_name("converter.py")
    command = [sys.executable, "-P", *map(str, (program, kind, path, result, limit))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=CONVERSION_TIMEOUT_S, check=False,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Fault(f"reading it took more than {CONVERSION_TIMEOUT_S:.0f} seconds") from None
    except OSError as error:
        raise Unsupported(f"no process can be started to read it: {error.strerror}") from None
    if done.returncode == 0:
        return
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    last = said[-1][:500] if said else ""
    if done.returncode == _MISSING_LIBRARY:
        raise Unsupported(last)
    if done.returncode < 0:
        raise Fault(
            f"the library that reads it crashed (signal {-done.returncode}): the file is damaged, or of another kind"
        )
    raise Fault(last or f"the process that read it ended with status {done.returncode}")


def _ensemble(header: dict[str, Any], arrays: Arrays) -> Ensemble:
    try:
        trees = _trees(header, arrays)
        made = Ensemble(
            format=str(header["format"]), trees=trees, n_features=int(header["n_features"]),
            n_outputs=int(header["n_outputs"]), base=arrays["base"].astype(np.float64), link=_LINKS[header["link"]],
            alpha=float(header["alpha"]), n_classes=int(header["n_classes"]), classifier=bool(header["classifier"]),
            float32=bool(header["float32"]), float32_rows=bool(header["float32_rows"]),
            or_equal=bool(header["or_equal"]), divisor=float(header["divisor"]),
            notes=[str(note) for note in header["notes"]],
        )  # fmt: skip
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise Fault(f"it has something that this server does not know ({type(error).__name__}: {error})") from None
    if made.n_outputs < 1 or len(made.base) != made.n_outputs or made.n_outputs % max(made.n_classes, 1):
        raise Fault(f"it has {made.n_outputs} outputs and {len(made.base)} base scores")
    return made


def _trees(header: dict[str, Any], arrays: Arrays) -> list[Tree]:
    ends, set_ends = arrays["ends"], arrays["set_ends"]
    member_ends = arrays["member_ends"]
    width = int(header["leaf_width"])
    trees, start, first_set = [], 0, 0
    for i, (end, last_set) in enumerate(zip(ends.tolist(), set_ends.tolist(), strict=True)):
        part = slice(start, end)
        output = int(arrays["output"][i])
        value = arrays["value"][start * width : end * width]
        tree = Tree(
            left=arrays["left"][part], right=arrays["right"][part], feature=arrays["feature"][part],
            threshold=arrays["threshold"][part],
            way=np.where(arrays["default_left"][part] != 0, Way.NAN_LEFT, Way.NAN_RIGHT).astype(np.uint8),
            value=value.reshape(-1, width) if output < 0 else value, output=output,
            cover=arrays["cover"][part] if header["covers"] else None,
        )  # fmt: skip
        for number in range(first_set, last_set):
            members = arrays["members"][member_ends[number] : member_ends[number + 1]]
            node = int(arrays["set_node"][number])
            tree.categories[node] = Categories(
                np.unique(members).astype(np.uint32), members_left=not arrays["set_right"][number],
                nan_left=bool(tree.way[node] == Way.NAN_LEFT),
            )  # fmt: skip
        trees.append(tree)
        start, first_set = end, last_set
    return trees


def _compare(ensemble: Ensemble, rows: NDArray[Any], expected: NDArray[Any], header: dict[str, Any]) -> None:
    """A pickle's own estimator has answered some rows: the forest made of it answers the same."""
    layout = lay_out(ensemble)
    answers = Forest(ensemble, layout, 0, ensemble.link, double_answers=True).answers(rows.astype(np.float32))
    if answers.shape[1] == 1 and expected.shape[1] == 2:
        expected = expected[:, 1:]
    if answers.shape != expected.shape or not np.allclose(
        answers, expected, rtol=_MOST_DIFFERENT, atol=_MOST_DIFFERENT
    ):
        raise Fault(
            f"what was made of {header['format']} answers differently than it does itself: it can not be served; its "
            "library may be of another version than the one that wrote it"
        )
