"""A model's parameters for TensorFlow, checked: Triton's names, and `ENGINE`, which is ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from triton_async.cgroup import quota_cpus
from triton_async.errors import InvalidArg, Unsupported

OPENVINO, TENSORFLOW = "openvino", "tensorflow"
SAVED_MODEL = "tensorflow_savedmodel"

_MAX_THREADS = 1024
_DEFAULT_TAG, _DEFAULT_SIGNATURE = "serve", "serving_default"


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a model. `engine`: OPENVINO or TENSORFLOW. Thread counts 0: the engine's choice. `shared`: instances
    that share a session, 0 for all of them.
    """

    engine: str
    saved_model: bool
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    tag: str = _DEFAULT_TAG
    signature: str = _DEFAULT_SIGNATURE
    shared: int = 0

    @property
    def plain(self) -> bool:
        """Whether the model is the graph and the signature that a SavedModel is usually asked for."""
        return (self.tag, self.signature) == (_DEFAULT_TAG, _DEFAULT_SIGNATURE)


def model_options(proto: Any, settings: Mapping[str, str], cores: int = 0) -> Options:
    """Options of the model with config `proto`, the --backend-config `settings` where it says nothing; `cores`: see
    `Backend.cores`. InvalidArg or Unsupported, naming model and parameter.
    """
    parameters = {key: value.string_value for key, value in proto.parameters.items()}
    where = f"model '{proto.name}': parameter"
    engine = _engine(where, parameters.get("ENGINE") or settings.get("engine") or "auto")
    if parameters.get("TF_INIT_OPS_FILE"):
        raise Unsupported(
            f"{where} 'TF_INIT_OPS_FILE' is not supported: freeze the graph, or save it as a SavedModel, which runs "
            "its own initialisation"
        )
    options = Options(
        engine=engine,
        saved_model=proto.platform == SAVED_MODEL,
        intra_op_threads=_count(where, parameters, "TF_NUM_INTRA_THREADS") or cores or quota_cpus(),
        inter_op_threads=_count(where, parameters, "TF_NUM_INTER_THREADS"),
        tag=parameters.get("TF_GRAPH_TAG", "") or _DEFAULT_TAG,
        signature=parameters.get("TF_SIGNATURE_DEF", "") or _DEFAULT_SIGNATURE,
        shared=_count(where, parameters, "MAX_SESSION_SHARE_COUNT"),
    )
    if engine == OPENVINO and not options.plain:
        key = "TF_GRAPH_TAG" if options.tag != _DEFAULT_TAG else "TF_SIGNATURE_DEF"
        raise Unsupported(
            f"{where} '{key}' is '{parameters[key]}': OpenVINO reads the graph '{_DEFAULT_TAG}' and its signature "
            f"'{_DEFAULT_SIGNATURE}' only; {remedy()}"
        )
    return options


def remedy() -> str:
    """What helps where OpenVINO does not."""
    return "where TensorFlow is installed it runs the model: pip install 'triton-async[tensorflow]'"


def _engine(where: str, text: str) -> str:
    chosen = text.strip().lower()
    if chosen not in ("auto", OPENVINO, TENSORFLOW):
        raise InvalidArg(f"{where} 'ENGINE' is '{text}', expected auto, {OPENVINO} or {TENSORFLOW}")
    if chosen == "auto":
        return TENSORFLOW if find_spec("tensorflow") is not None else OPENVINO
    return chosen


def _count(where: str, parameters: Mapping[str, str], key: str) -> int:
    text = parameters.get(key, "0").strip() or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) > _MAX_THREADS:
        raise InvalidArg(f"{where} '{key}' is '{text}', expected a number up to {_MAX_THREADS}, 0 for the default")
    return int(text)
