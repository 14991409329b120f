"""What depends on libraries of others: that they are missing, crash, or say no is told by name; linear trees."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from fil_models import LIGHTGBM, Loaded, parameters, write

from triton_async.errors import InvalidArg, Unsupported
from triton_async.memory.slab import SlabPool

CHECKPOINT = (4).to_bytes(4, "little") + (8).to_bytes(4, "little") + bytes(100)


@pytest.mark.parametrize(("body", "error", "text"), [
    ("raise ImportError('not here')", Unsupported, r"by treelite, which can not be imported \(not here\): install"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", InvalidArg, r"crashed \(signal 11\): the file is"),
    ("import sys; sys.exit(0)", InvalidArg, "left no result"),
    ("__version__ = '9'\nclass Model:\n  def deserialize(path): raise ValueError('no\\nsuch')", InvalidArg,
     "treelite 9: ValueError: no such"),
    ("__version__ = '9'\nclass Model:\n  def deserialize(path): return bytearray(1 << 50)", InvalidArg,
     "takes too much memory"),
])  # fmt: skip
def test_a_library_that_is_missing_or_fails_is_told(
    body: str, error: type[Exception], text: str, tmp_path: Path, pool: SlabPool
) -> None:
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "treelite.py").write_text(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "stub"))
        refused(error, text, tmp_path, pool)


def refused(error: type[Exception], text: str, tmp_path: Path, pool: SlabPool) -> None:
    with pytest.raises(error, match=f"unable to load model 'm' from checkpoint.tl: .*{text}"):
        Loaded(write(tmp_path, {"checkpoint.tl": CHECKPOINT}), pool)


def test_linear_trees_without_lightgbm_are_refused(
    tmp_path: Path, pool: SlabPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    data = LIGHTGBM.replace("is_linear=0", "is_linear=1").encode()
    with pytest.raises(Unsupported, match=r"from model.txt: its trees have linear leaves.*install triton-async\[fil\]"):
        Loaded(write(tmp_path, {"model.txt": data}), pool)


@pytest.mark.filterwarnings("ignore")
def test_linear_trees_are_answered_by_lightgbm(tmp_path: Path, pool: SlabPool) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="LightGBM is not installed")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3))
    target = (rows[:, 0] + 0.1 * rng.normal(size=300) > 0).astype(int)
    params = {"objective": "binary", "linear_tree": True, "verbose": -1, "num_threads": 1, "num_leaves": 4}
    booster = lightgbm.train(params, lightgbm.Dataset(rows, target), 5)
    asked = rows[:7].astype(np.float32)
    asked[0] = np.nan
    model = {"model.txt": booster.model_to_string().encode()}
    shares = Loaded(write(tmp_path, model, parameters(predict_proba="true"), name="a"), pool).answer(asked)
    assert shares.shape == (7,)
    assert np.allclose(shares, booster.predict(asked), rtol=1e-6)
    classes = Loaded(write(tmp_path, model, name="b"), pool).answer(asked)
    assert np.array_equal(classes, booster.predict(asked) > 0.5)
    config = 'output { name: "output__0" } output { name: "treeshap_output" }'
    with pytest.raises(InvalidArg, match="contributions are not given for linear trees"):
        Loaded(write(tmp_path, model, config, name="c"), pool)
