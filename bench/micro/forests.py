"""Forests of 500 trees of depth 6 on 30 features, one thread: ours against XGBoost, LightGBM and ONNX Runtime with a
converted model, by the fastest calls that they have; and what the server adds, over a model of the identity backend.

The candidates take turns; each figure is the least of all rounds, in µs of wall time, with what Python adds to a call.

    PYTHONSAFEPATH= python bench/micro/forests.py
"""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import xgboost

from triton_async.backends.fil import lightgbm_text, xgboost_model
from triton_async.backends.fil.ensemble import Ensemble
from triton_async.backends.fil.forest import Forest
from triton_async.backends.fil.layout import lay_out

TREES, DEPTH, FEATURES = 500, 6, 30
ROUNDS = 40


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, FEATURES)).astype(np.float32)
    return rows, (rows[:, :8].sum(axis=1) + rng.normal(size=len(rows)) > 0).astype(int)


def least(candidates: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """µs of one call of each."""
    found = dict.fromkeys(candidates, float("inf"))
    for _ in range(ROUNDS):
        for name, call in candidates.items():
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            found[name] = min(found[name], (time.perf_counter() - start) / repeats * 1e6)
    return found


def ours(ensemble: Ensemble) -> Forest:
    return Forest(ensemble, lay_out(ensemble), 0, ensemble.link)


def fast_lightgbm(booster: Any, row: Any) -> Callable[[], Any]:
    """LightGBM's single-row call, prepared once."""
    library, handle, count = lightgbm.basic._LIB, ctypes.c_void_p(), ctypes.c_int64()
    library.LGBM_BoosterPredictForMatSingleRowFastInit(
        booster._handle, 0, 0, -1, 0, FEATURES, ctypes.c_char_p(b"num_threads=1"), ctypes.byref(handle)
    )
    answer = np.zeros(1)
    at, to = row.ctypes.data_as(ctypes.c_void_p), answer.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
    run, out = library.LGBM_BoosterPredictForMatSingleRowFast, ctypes.byref(count)

    def call() -> Any:
        run(handle, at, out, to)
        return answer

    return call


def fast_xgboost(booster: Any, rows: Any) -> Callable[[], Any]:
    """XGBoost's call for dense memory, without its Python package."""
    import json

    library = xgboost.core._LIB
    array = json.dumps({"data": [rows.ctypes.data, True], "shape": rows.shape, "typestr": "<f4", "version": 3}).encode()
    config = json.dumps({
        "type": 0, "training": False, "iteration_begin": 0, "iteration_end": 0, "missing": float("nan"),
        "strict_shape": False, "cache_id": 0,
    }).encode()  # fmt: skip
    shape, dims = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
    answer = ctypes.POINTER(ctypes.c_float)()

    def call() -> Any:
        status = library.XGBoosterPredictFromDense(
            booster.handle, array, config, None, ctypes.byref(shape), ctypes.byref(dims), ctypes.byref(answer)
        )
        assert status == 0
        return np.ctypeslib.as_array(answer, (len(rows),))

    return call


def converted(booster: Any) -> onnxruntime.InferenceSession:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = convert_xgboost(booster, initial_types=[("x", FloatTensorType([None, FEATURES]))])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def engines() -> bytes:
    """Prints the engines side by side; returns the XGBoost model."""
    rows, target = data()
    params = {"objective": "binary:logistic", "max_depth": DEPTH, "nthread": 1}
    boosted = xgboost.train(params, xgboost.DMatrix(rows, target), TREES)
    light = lightgbm.train(
        {"objective": "binary", "max_depth": DEPTH, "num_leaves": 1 << DEPTH, "num_threads": 1, "verbose": -1,
         "min_data_in_leaf": 5}, lightgbm.Dataset(rows, target), TREES,
    )  # fmt: skip
    saved = bytes(boosted.save_raw("ubj"))
    forests = {"XGBoost": ours(xgboost_model.read(saved)), "LightGBM": ours(lightgbm_text.read(
        light.model_to_string().encode()))}  # fmt: skip
    session = converted(boosted)
    assert np.array_equal(forests["XGBoost"].answers(rows)[:, 0], boosted.inplace_predict(rows))
    for count, repeats in ((1, 100), (1000, 1)):
        part = np.ascontiguousarray(rows[:count])
        doubles = part.astype(np.float64)
        candidates = {
            "ours, XGBoost model": lambda part=part: forests["XGBoost"].answers(part),
            "XGBoost inplace_predict": lambda part=part: boosted.inplace_predict(part),
            "XGBoost C API": fast_xgboost(boosted, part),
            "ONNX Runtime, converted": lambda part=part: session.run(None, {"x": part}),
            "ours, LightGBM model": lambda part=part: forests["LightGBM"].answers(part),
            "LightGBM predict": lambda doubles=doubles: light.predict(doubles),
        }
        if count == 1:
            candidates["LightGBM C API, single row fast"] = fast_lightgbm(light, doubles)
        print(f"\n| {count} rows | µs | times ours |\n|---|---|---|")
        found = least(candidates, repeats)
        for name, us in found.items():
            mine = found["ours, LightGBM model" if "LightGBM" in name else "ours, XGBoost model"]
            print(f"| {name} | {us:.1f} | {us / mine:.1f} |", flush=True)
    return saved


# -- the server ------------------------------------------------------------------------------------


def serving(saved: bytes) -> None:
    """Prints what a request of one row takes over HTTP, of the forest and of an identity model in turns."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("forest", "identity"):
            (root / name / "1").mkdir(parents=True)
        (root / "forest" / "1" / "xgboost.ubj").write_bytes(saved)
        (root / "forest" / "config.pbtxt").write_text('backend: "fil" max_batch_size: 64')
        (root / "identity" / "config.pbtxt").write_text(
            'backend: "identity" max_batch_size: 64 input { name: "input__0" data_type: TYPE_FP32 dims: 30 } '
            'output { name: "output__0" data_type: TYPE_FP32 dims: 30 }'
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "triton_async.cli", f"--model-repository={root}", f"--http-port={port}",
             "--allow-grpc=false", "--allow-metrics=false", f"--log-file={root}/log"],
        )  # fmt: skip
        try:
            _wait(port)
            found = _ask(port)
        finally:
            server.terminate()
            server.wait()
    print("\n| one row over HTTP, one connection | median µs |\n|---|---|")
    for name, times in found.items():
        print(f"| {name} | {np.median(times):.1f} |")
    print(f"| over identity | {np.median(found['forest']) - np.median(found['identity']):.1f} |")


def _wait(port: int) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def _ask(port: int) -> dict[str, list[float]]:
    row = np.random.default_rng(1).normal(size=(1, FEATURES)).astype(np.float32).tobytes()
    header = (b'{"inputs":[{"name":"input__0","shape":[1,30],"datatype":"FP32","parameters":{"binary_data_size":120}}],'
              b'"parameters":{"binary_data_output":true}}')  # fmt: skip
    requests = {
        name: (f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(header) + 120}\r\n"
               f"Inference-Header-Content-Length: {len(header)}\r\n\r\n").encode() + header + row
        for name in ("forest", "identity")
    }  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in requests}
    connections = {name: socket.create_connection(("127.0.0.1", port)) for name in requests}
    for connection in connections.values():
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in range(200):
        for name, connection in connections.items():
            for _ in range(50):
                start = time.perf_counter()
                connection.sendall(requests[name])
                answer = connection.recv(65536)
                if number >= 20:
                    found[name].append((time.perf_counter() - start) * 1e6)
            assert answer.startswith(b"HTTP/1.1 200"), answer
    return found


if __name__ == "__main__":
    serving(engines())
