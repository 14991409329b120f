"""Builds a repository in which what comes before and after the pose network are backends in C++, as shared libraries.

    python examples/pose/build_native.py models-native
    triton-async --model-repository=models-native
    python examples/pose/client.py picture.jpg

Needs g++, and the headers of libjpeg and libpng (Debian: libjpeg-dev, libpng-dev).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent
sys.path.insert(0, str(EXAMPLES))

import onnx_models  # noqa: E402

from triton_async import native  # noqa: E402

# Model -> libraries that its backend uses. The source is native/<model>.cc, the library lies in the version's folder.
BACKENDS = {"image_preprocess": ("-ljpeg", "-lpng"), "pose_postprocess": ()}
FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=default")


def build(repository: Path) -> None:
    """Write the four models into `repository`, whose folders of these names are replaced."""
    for name, libraries in BACKENDS.items():
        version = _folder(repository, name, _native(_config(name), name))
        compile_backend(HERE / "native" / f"{name}.cc", version / f"libtriton_{name}.so", libraries)
    version = _folder(repository, "hrnet", _config("hrnet"))
    (version / "model.onnx").write_bytes(onnx_models.hrnet().SerializeToString())
    _folder(repository, "hrnet_pose_estimate", _config("hrnet_pose_estimate"))


def compile_backend(source: Path, target: Path, libraries: Sequence[str]) -> None:
    """Compile one backend against the headers of this package."""
    command = [os.environ.get("CXX", "g++"), *FLAGS, f"-I{native.INCLUDE}", str(source), "-o", str(target), *libraries]
    subprocess.run(command, check=True)


def _config(name: str) -> str:
    return (EXAMPLES / "models" / name / "config.pbtxt").read_text()


def _native(config: str, backend: str) -> str:
    """The same model, run by a library."""
    return config.replace('backend: "python"', f'backend: "{backend}"')


def _folder(repository: Path, name: str, config: str) -> Path:
    """The model's folder with its config alone; the version's."""
    folder = repository / name
    shutil.rmtree(folder, ignore_errors=True)
    version = folder / "1"
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    return version


def main() -> None:
    """Build into the folder that the command names."""
    parser = argparse.ArgumentParser(description="Build the pose example with backends in C++.")
    parser.add_argument("repository", type=Path)
    build(parser.parse_args().repository)


if __name__ == "__main__":
    main()
