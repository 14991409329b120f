"""Builds the example model repository: real weights from installed packages, and generated models.

Quick when there is nothing to do: a model whose sources have not changed is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_models
import resnet

EXAMPLES = Path(__file__).resolve().parent
CONFIGS = EXAMPLES / "models"
DEFAULT_REPOSITORY = EXAMPLES.parent / "models"
STAMP = ".build.json"

Labels = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Weights:
    """An ONNX file that comes with an installed package."""

    package: str
    pattern: str

    def find(self) -> Path:
        """The one file that matches; says which package to install when there is none."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"{self.package.replace('_', '-')} is not installed: pip install '.[dev]'")
        folder = Path(spec.submodule_search_locations[0])
        found = sorted(folder.glob(self.pattern))
        if len(found) != 1:
            raise SystemExit(f"expected one file {self.pattern} in {self.package}, found {len(found)}")
        return found[0]


@dataclass(frozen=True)
class Model:
    """One model of the repository: where its graph comes from and which label files go beside it."""

    source: Weights | Callable[[], onnx.ModelProto]
    labels: dict[str, Labels] = field(default_factory=dict)


def recogniser_characters(weights: Path) -> list[str]:
    """The characters that the text recogniser tells apart, from the metadata of its ONNX file."""
    model = onnx.load(str(weights), load_external_data=False)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    # Not splitlines(): some of the characters count as line ends there.
    return metadata["character"].removesuffix("\n").split("\n")


def file_type_labels(weights: Path) -> list[str]:
    """Magika's content types, in the order of its output."""
    config = json.loads((weights.parent / "config.min.json").read_text(encoding="utf-8"))
    return list(config["target_labels_space"])


def class_names(_: Path) -> list[str]:
    """Names for the classes of a network that has learnt nothing."""
    return [f"class_{number:04}" for number in range(1, resnet.CLASSES + 1)]


MODELS = {
    "text_detection": Model(Weights("rapidocr_onnxruntime", "models/*_det_infer.onnx")),
    "text_recognition": Model(
        Weights("rapidocr_onnxruntime", "models/*_rec_infer.onnx"), {"dictionary.txt": recogniser_characters}
    ),
    "file_type": Model(Weights("magika", "models/*/model.onnx"), {"labels.txt": file_type_labels}),
    "resnet18": Model(resnet.resnet18, {"labels.txt": class_names}),
    "segmentation": Model(onnx_models.segmentation),
    "yolo": Model(onnx_models.yolo),
    "simple": Model(onnx_models.add_sub),
    "add_sub": Model(onnx_models.add_sub),
    "identity_fp32": Model(onnx_models.identity_fp32),
    "identity_bytes": Model(onnx_models.identity_bytes),
}


def fingerprint(name: str, model: Model) -> str:
    """A digest of everything that the model's folder is made from."""
    digest = hashlib.sha256()
    for path in [*sorted(EXAMPLES.glob("*.py")), *sorted((CONFIGS / name).glob("*"))]:
        digest.update(path.read_bytes())
    if isinstance(model.source, Weights):
        weights = model.source.find()
        # Reading the weights would cost more than copying them.
        status = weights.stat()
        digest.update(f"{weights} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def write_model(name: str, model: Model, folder: Path) -> None:
    """Write config, version 1 and label files of one model into `folder`."""
    version = folder / "1"
    version.mkdir(parents=True)
    graph = version / "model.onnx"
    if isinstance(model.source, Weights):
        shutil.copyfile(model.source.find(), graph)
    else:
        graph.write_bytes(model.source().SerializeToString())
    for filename, labels in model.labels.items():
        weights = model.source.find() if isinstance(model.source, Weights) else graph
        (folder / filename).write_text("".join(f"{label}\n" for label in labels(weights)), encoding="utf-8")
    config = CONFIGS / name / "config.pbtxt"
    if config.exists():
        shutil.copyfile(config, folder / "config.pbtxt")


def build(repository: Path) -> list[str]:
    """Bring the repository up to date; returns the names of the models that were written."""
    repository.mkdir(parents=True, exist_ok=True)
    stamp = repository / STAMP
    known: dict[str, str] = json.loads(stamp.read_text()) if stamp.exists() else {}
    written = []
    for name, model in MODELS.items():
        digest = fingerprint(name, model)
        folder = repository / name
        if known.get(name) == digest and (folder / "1" / "model.onnx").exists():
            continue
        # A folder appears complete or not at all: a server may be watching.
        with tempfile.TemporaryDirectory(dir=repository.parent, prefix=".models-") as staging:
            write_model(name, model, Path(staging) / name)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.move(Path(staging) / name, folder)
        known[name] = digest
        stamp.write_text(json.dumps(known, indent=1))
        written.append(name)
    return written


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the example model repository.")
    text = "folder to build in, default %(default)s"
    parser.add_argument("repository", nargs="?", type=Path, default=DEFAULT_REPOSITORY, help=text)
    repository: Path = parser.parse_args(arguments).repository.resolve()
    written = build(repository)
    print(f"{repository}: {len(MODELS)} models, written now: {', '.join(written) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
