"""Ensembles of three identity steps, FP32[16], and one of the steps alone: python -m bench.e2e.ensemble."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.conformance.models import write_repository
from tests.conformance.servers import Server
from tests.conformance.setup_oracle import prepare

from . import models, report, versus
from .identity import check
from .versus import OURS, TRITON, Subject

STEPS = ("first", "second", "third")
ENSEMBLE, BUILT_IN_ENSEMBLE = "three_steps", "three_steps_built_in"
_NOTE = (
    "What a step costs: the CPU of three steps less that of one model alone, halved. The steps are three models of one "
    "instance each with dynamic batching."
)


def _ensemble(name: str, steps: tuple[str, ...]) -> str:
    tensors = ["INPUT0", *(f"between{i}" for i in range(1, len(steps))), "OUTPUT0"]
    written = "".join(
        f'  step {{ model_name: "{step}" model_version: -1 input_map {{ key: "INPUT0" value: "{tensors[i]}" }} '
        f'output_map {{ key: "OUTPUT0" value: "{tensors[i + 1]}" }} }}\n'
        for i, step in enumerate(steps)
    )
    return f"""name: "{name}"
platform: "ensemble"
max_batch_size: 8
input {{ name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }}
output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }}
ensemble_scheduling {{
{written}}}
"""


def _write(root: Path, name: str, config: str) -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(config)


def _repository(root: Path, form: str) -> Path:
    steps = tuple(dataclasses.replace(models.IDENTITY_MODEL, name=name) for name in STEPS)
    write_repository(root, steps, form)
    _write(root, ENSEMBLE, _ensemble(ENSEMBLE, STEPS))
    return root


def triton_repository(root: Path) -> Path:
    """For the real server: Python models."""
    return _repository(root, "python")


def our_repository(root: Path) -> Path:
    """ONNX models, and models of the built-in identity backend."""
    _repository(root, "onnx")
    built_in = tuple(f"{name}_built_in" for name in STEPS)
    for name in built_in:
        _write(root, name, models.BUILT_IN_CONFIG.replace(models.BUILT_IN, name) + "dynamic_batching { }\n")
    _write(root, BUILT_IN_ENSEMBLE, _ensemble(BUILT_IN_ENSEMBLE, built_in))
    return root


def _subjects(running: dict[str, Server]) -> list[Subject]:
    found = []
    if TRITON in running:
        found.append(Subject("tritonserver 2.51, three Python steps", running[TRITON], ENSEMBLE))
        found.append(Subject("tritonserver 2.51, one Python model", running[TRITON], STEPS[0]))
    if OURS in running:
        found.append(Subject("triton-async, three ONNX steps", running[OURS], ENSEMBLE))
        found.append(Subject("triton-async, one ONNX model", running[OURS], STEPS[0]))
        found.append(Subject("triton-async, three built-in steps", running[OURS], BUILT_IN_ENSEMBLE))
        found.append(Subject("triton-async, one built-in model", running[OURS], f"{STEPS[0]}_built_in"))
    return found


def main() -> None:
    """Starts the servers, measures, writes the report."""
    options = versus.parser("ensemble", __doc__, [1, 8, 32]).parse_args()
    oracle = prepare()
    window = versus.by_perf_analyzer(oracle, f"INPUT0:{models.ELEMENTS}", options.seconds)
    with versus.both(oracle, options.only, triton_repository, our_repository) as running:
        subjects = _subjects(running)
        check(subjects, options.protocol)
        results = versus.take_turns(subjects, versus.points(options), options.rounds, window)
    print(report.save_comparison("Ensemble of three identity steps, FP32[16]", options.out, results, _NOTE))


if __name__ == "__main__":
    main()
