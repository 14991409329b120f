"""AOTInductor packages. Making one takes a C++ compiler and much of a minute, so it is kept between runs."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from inference import request, values
from torch_models import Loaded, config, torch

from triton_async.errors import InternalError, InvalidArg, ServerError
from triton_async.memory.slab import SlabPool

CACHE = Path(__file__).resolve().parents[3] / ".cache"
PAIR = (["ARGS[0] FP32 [4]", "ARGS[1] FP32 [4]"], ["RESULT[0] FP32 [4]", "RESULT[1] FP32 [4]"])

# In a process of its own: the compiler leaves threads and settings behind.
COMPILE = """
import sys, torch
class Doubled(torch.nn.Module):
    def forward(self, x, y):
        x.mul_(2)
        return x + y, x - y
batch = torch.export.Dim("batch", min=1, max=64)
args = (torch.zeros(2, 4), torch.zeros(2, 4))
program = torch.export.export(Doubled(), args, dynamic_shapes={"x": {0: batch}, "y": {0: batch}})
torch._inductor.aoti_compile_and_package(
    program, package_path=sys.argv[1], inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"}
)
"""


@pytest.fixture(scope="module")
def package() -> Path:
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs g++")
    made = CACHE / f"aotinductor-{torch.__version__}-{platform.node()}.pt2"
    if not made.exists():
        CACHE.mkdir(exist_ok=True)
        unfinished = made.with_name(f"{os.getpid()}-{made.name}")
        subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILE, str(unfinished)], check=True)
        unfinished.rename(made)
    return made


def write(root: Path, package: Path, text: str | None, name: str = "m") -> Path:
    directory = root / name
    (directory / "1").mkdir(parents=True)
    shutil.copy(package, directory / "1" / "model.pt2")
    if text is not None:
        (directory / "config.pbtxt").write_text(text)
    return directory


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(["ARGS[1]", "ARGS[0]"], ["RESULT[1]", "RESULT[0]"]), (["INPUT__1", "INPUT__0"], ["O__1", "O__0"])],
)
def test_names_are_tritons_or_have_an_index(
    tmp_path: Path, pool: SlabPool, package: Path, inputs: list[str], outputs: list[str]
) -> None:
    text = config([f"{name} FP32 [4]" for name in inputs], [f"{name} FP32 [4]" for name in outputs], 8)
    loaded = Loaded(write(tmp_path, package, text.replace("backend: 'pytorch'", "platform: 'torch_aoti'")), pool)
    x, y = np.full((2, 4), 5, np.float32), np.full((2, 4), 3, np.float32)
    found = loaded.run_one(**dict(zip(inputs, (y, x), strict=True)))
    assert [found[name][0, 0] for name in outputs] == [7, 13]


def test_a_batch_is_run_and_nothing_of_a_request_is_written_to(
    tmp_path: Path, pool: SlabPool, package: Path
) -> None:
    loaded = Loaded(write(tmp_path, package, config(*PAIR, 8)), pool)
    arrays = [np.full((rows, 4), rows, np.float32) for rows in (1, 3, 2)]
    for batch in (arrays, arrays[:1], arrays[:1], arrays[1:]):
        responses = loaded.run(*[request(**{"ARGS[0]": a, "ARGS[1]": a}) for a in batch])
        for response, a in zip(responses, batch, strict=True):
            np.testing.assert_array_equal(values(response)["RESULT[0]"], 3 * a)
            np.testing.assert_array_equal(a, a[0, 0])


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [(["ARGS[0] FP32 [-1]", "ARGS[1] FP32 [-1]"], (2, 3)), (["ARGS[0] FP64 [4]", PAIR[0][1]], (2, 4))],
)
def test_a_config_that_is_not_the_packages_reads_no_foreign_memory(
    tmp_path: Path, pool: SlabPool, package: Path, inputs: list[str], shape: tuple[int, ...]
) -> None:
    loaded = Loaded(write(tmp_path, package, config(inputs, PAIR[1], 8)), pool)
    dtype = np.float64 if "FP64" in inputs[0] else np.float32
    with pytest.raises(InternalError, match=r"PyTorch execute failure: .*unmatched (dim value|dtype)"):
        loaded.run_one(**{"ARGS[0]": np.zeros(shape, dtype), "ARGS[1]": np.zeros(shape, np.float32)})


def test_a_package_needs_a_complete_config(tmp_path: Path, pool: SlabPool, package: Path) -> None:
    with pytest.raises(InvalidArg, match="auto-complete is not supported for an AOTInductor package"):
        Loaded(write(tmp_path, package, None), pool)
    with pytest.raises(InvalidArg, match="configuration expects 1 inputs, model provides 2"):
        Loaded(write(tmp_path, package, config(PAIR[0][:1], PAIR[1]), "n"), pool)


def test_a_truncated_package(tmp_path: Path, pool: SlabPool, package: Path) -> None:
    directory = write(tmp_path, package, config(*PAIR))
    path = directory / "1" / "model.pt2"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ServerError, match="failed to load model 'm'"):
        Loaded(directory, pool)
