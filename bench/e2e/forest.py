"""What a forest adds to a request, over the built-in identity model beside it: python -m bench.e2e.forest.

500 XGBoost trees of depth 6 on 30 features, one row a request, sent by perf_analyzer; the two models take turns.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import xgboost

from tests.conformance import servers
from tests.conformance.setup_oracle import prepare

from . import report, versus
from .perf import Load, Window, measure
from .versus import OURS, TRITON, Point, Subject

TREES, DEPTH, FEATURES = 500, 6, 30
FOREST, IDENTITY = "forest", "identity"
_FOREST_CONFIG = 'backend: "fil"\nmax_batch_size: 64\n'
_IDENTITY_CONFIG = f"""backend: "identity"
max_batch_size: 64
input {{ name: "input__0" data_type: TYPE_FP32 dims: [ {FEATURES} ] }}
output {{ name: "output__0" data_type: TYPE_FP32 dims: [ {FEATURES} ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
"""


def _trained() -> bytes:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, FEATURES)).astype(np.float32)
    target = (rows[:, :8].sum(axis=1) + rng.normal(size=len(rows)) > 0).astype(int)
    params = {"objective": "binary:logistic", "max_depth": DEPTH}
    return bytes(xgboost.train(params, xgboost.DMatrix(rows, target), TREES).save_raw("ubj"))


def _repository(root: Path) -> Path:
    for name, config in ((FOREST, _FOREST_CONFIG), (IDENTITY, _IDENTITY_CONFIG)):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
    (root / FOREST / "1" / "xgboost.ubj").write_bytes(_trained())
    return root


def main() -> None:
    """Starts the server, measures in turns, writes the report."""
    parser = versus.parser("forest", __doc__, [1, 8])
    parser.set_defaults(only=OURS)
    options = parser.parse_args()
    if options.only == TRITON:
        parser.error("the real server has no forests without a GPU")
    oracle = prepare()

    def window(subject: Subject, point: Point) -> Window:
        protocol, concurrency = point
        load = Load(protocol, subject.server.port(protocol), subject.model, concurrency, options.seconds)
        return measure(oracle, subject.server, load)

    with tempfile.TemporaryDirectory() as work:
        command = servers.ours_command(_repository(Path(work) / "models"))
        with servers.running("triton-async", command, servers.ours_env(), Path(work) / "log") as server:
            subjects = [Subject(name, server, name) for name in (IDENTITY, FOREST)]
            results = versus.take_turns(subjects, versus.points(options), options.rounds, window)
    rows = report.medians(results)
    base = {(row["protocol"], row["concurrency"]): row for row in rows if row["server"] == IDENTITY}
    for row in rows:
        beside = base[row["protocol"], row["concurrency"]]
        row["p50_more"] = round(row["p50_us"] - beside["p50_us"], 1)
        row["cpu_more"] = round(row["cpu_us"] - beside["cpu_us"], 1)
    columns = ("protocol", "concurrency", "model", "infer/s", "p50 us", "p50 us more", "CPU us/infer", "CPU us more")
    keys = ("protocol", "concurrency", "server", "infer_per_s", "p50_us", "p50_more", "cpu_us", "cpu_more")
    title = f"One row through {TREES} trees of depth {DEPTH}, over an identity model"
    print(report.save(title, options.out, columns, keys, rows))


if __name__ == "__main__":
    main()
