"""The C sources under gcc's sanitizers and all its warnings, through the drivers of tests/csrc."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    ROOT / "csrc" / name
    for name in (
        "arena.c", "assembly.c", "forest.c", "forest_ranks.c", "gather.c", "json.c", "json_values.c", "lane.c",
        "later.c", "slab.c", "wakeup.c",
    )
]  # fmt: skip
MEMORY = "address,undefined"
# Impossible sizes are asked for on purpose.
ENVIRONMENT = {
    **os.environ,
    "ASAN_OPTIONS": "allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


def build(driver: str, sanitizers: str, folder: Path, *more: str) -> Path:
    program = folder / driver
    command = [
        "gcc", "-g", "-O1", "-Wall", "-Wextra", "-Werror", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all",
        "-pthread", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests/csrc'}", f"{ROOT / 'tests/csrc' / driver}.c", *more,
        "-lm", "-o", str(program),
    ]  # fmt: skip
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program


def run(program: Path, environment: Mapping[str, str] = MappingProxyType({})) -> subprocess.CompletedProcess[str]:
    # gcc 12's thread sanitizer cannot start at every place where newer kernels may put a program.
    for _ in range(200):
        done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60,
                              env={**ENVIRONMENT, **environment})  # fmt: skip
        if "unexpected memory mapping" not in done.stderr:
            break
    return done


@pytest.mark.parametrize(("driver", "sanitizers"), [
    ("memory_driver", MEMORY), ("wire_driver", MEMORY), ("threads_driver", MEMORY), ("threads_driver", "thread"),
    ("arena_driver", MEMORY), ("arena_driver", "thread"), ("forest_driver", MEMORY), ("json_driver", MEMORY),
    ("assembly_driver", MEMORY), ("lane_driver", MEMORY), ("lane_driver", "thread"),
    ("later_driver", MEMORY), ("later_driver", "thread"),
])  # fmt: skip
def test_the_drivers_find_nothing(driver: str, sanitizers: str, tmp_path: Path) -> None:
    done = run(build(driver, sanitizers, tmp_path, *map(str, SOURCES)))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("sanitizers", [MEMORY, "thread"])
def test_backends_may_let_go_of_requests_at_any_time(tmp_path: Path, sanitizers: str) -> None:
    sources = sorted((ROOT / "csrc" / "tritonserver").glob("*.c"))
    inside = f"-I{ROOT / 'csrc' / 'tritonserver'}"
    # What is kept over a model's end stays in memory, to be told from what is there.
    environment = {"ASAN_OPTIONS": "detect_leaks=0"}
    program = build("backend_driver", sanitizers, tmp_path, inside, "-std=gnu11", *map(str, sources), "-ldl")
    done = run(program, environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("file", "run_with", "good", "bad"), [
    ("gather.c", ("memory_driver", MEMORY), "offset < (int64_t)length", "offset + 1 < (int64_t)length"),
    ("assembly.c", ("assembly_driver", MEMORY), "outer *= r->outer[k];", "outer *= r->inner[k];"),
    ("assembly.c", ("assembly_driver", MEMORY), "int64_t used = r->inner[k] * r->outer_stride[k];",
     "int64_t used = r->outer[k] * r->outer_stride[k];"),
    ("json.c", ("json_driver", MEMORY), "json->size ? (unsigned char)", "json->size + 1 ? (unsigned char)"),
    ("wakeup.c", ("threads_driver", "thread"), "newest, memory_order_seq_cst", "newest, memory_order_relaxed"),
    ("wakeup.c", ("threads_driver", MEMORY), "return atomic_load_explicit(&events->head, memory_order_seq_cst) != NULL",
     "return 0"),
    ("forest.c", ("forest_driver", MEMORY), "word < (uint32_t)set->count", "word <= (uint32_t)set->count"),
    ("forest.c", ("forest_driver", MEMORY), "depth = (int64_t)forest->depth + 2;", "depth = forest->depth;"),
    ("forest_ranks.c", ("forest_driver", MEMORY), "_CMP_NLT_UQ", "_CMP_GE_OQ"),
    ("forest_ranks.c", ("forest_driver", MEMORY), "coarse > 0 ? coarse - 1 : 0", "coarse"),
    ("arena.c", ("arena_driver", MEMORY), "rest->before = block;", "rest->before = NULL;"),
    ("arena.c", ("arena_driver", MEMORY), "int last = arena->closed && arena->leased == 0;", "int last = 0;"),
    ("later.c", ("later_driver", MEMORY), "working = errands != NULL;", "working = 0;"),
    ("slab.c", ("arena_driver", "thread"), "pool->arena = NULL;\n    pool->on_fallback = NULL;", ""),
])  # fmt: skip
def test_the_drivers_would_find_a_mistake(
    file: str, run_with: tuple[str, str], good: str, bad: str, tmp_path: Path
) -> None:
    driver, sanitizers = run_with
    text = (ROOT / "csrc" / file).read_text()
    assert text.count(good) == 1
    (tmp_path / file).write_text(text.replace(good, bad))
    sources = [str(tmp_path / path.name) if path.name == file else str(path) for path in SOURCES]
    assert run(build(driver, sanitizers, tmp_path, *sources)).returncode != 0
