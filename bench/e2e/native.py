"""An identity in C, the same source in both servers, and the built-in one: python -m bench.e2e.native."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.servers import Server
from tests.conformance.setup_oracle import prepare
from tests.native_libraries import build

from . import models, report, versus
from .identity import check
from .versus import OURS, TRITON, Subject

IN_C = "identity_in_c"
_BACKEND = "mirror"
_NOTE = (
    "`tests/native/identity.c` as a shared library in the folder of the model's version. Wanted of triton-async: at "
    "most 1.05 times the CPU of its built-in identity, and at most a quarter of the real server's."
)


def repository(root: Path) -> Path:
    """The model in C, which both servers take."""
    folder = root / IN_C
    build(folder / "1" / f"libtriton_{_BACKEND}.so", "identity.c", "REPORTS")
    config = models.BUILT_IN_CONFIG.replace(models.BUILT_IN, IN_C).replace('"identity"', f'"{_BACKEND}"')
    (folder / "config.pbtxt").write_text(config)
    return root


def our_repository(root: Path) -> Path:
    """The same, and the built-in identity."""
    repository(root)
    (root / models.BUILT_IN / "1").mkdir(parents=True)
    (root / models.BUILT_IN / "config.pbtxt").write_text(models.BUILT_IN_CONFIG)
    return root


def _subjects(running: dict[str, Server]) -> list[Subject]:
    found = []
    if TRITON in running:
        found.append(Subject("tritonserver 2.51, in C", running[TRITON], IN_C))
    if OURS in running:
        found.append(Subject("triton-async, in C", running[OURS], IN_C))
        found.append(Subject("triton-async, built-in identity", running[OURS], models.BUILT_IN))
    return found


def main() -> None:
    """Starts the servers, measures, writes the report."""
    options = versus.parser("native", __doc__, [1, 8, 32]).parse_args()
    oracle = prepare()
    window = versus.by_perf_analyzer(oracle, f"INPUT0:{models.ELEMENTS}", options.seconds)
    with versus.both(oracle, options.only, repository, our_repository) as running:
        subjects = _subjects(running)
        check(subjects, options.protocol)
        results = versus.take_turns(subjects, versus.points(options), options.rounds, window)
    print(report.save_comparison("Identity FP32[16] as a native backend", options.out, results, _NOTE))


if __name__ == "__main__":
    main()
