"""The backend and its loaded models: which file, which answers, and how a config is completed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.backends.fil import sources
from triton_async.backends.fil.defines import FOREST_BATCH_SIZE
from triton_async.backends.fil.ensemble import Ensemble, Fault, Link
from triton_async.backends.fil.forest import Forest
from triton_async.backends.fil.instance import FilInstance
from triton_async.backends.fil.layout import lay_out
from triton_async.backends.fil.linear import LinearInstance
from triton_async.backends.fil.options import Options, model_options
from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.config.consistency import check_against_model
from triton_async.config.model_config import InstanceGroup, InstanceKind
from triton_async.datatypes import from_config_name
from triton_async.errors import InvalidArg

log = logging.getLogger("triton_async.backends.fil")

INPUT, OUTPUT, SHAP = "input__0", "output__0", "treeshap_output"

_FP32, _FP64 = from_config_name("TYPE_FP32"), from_config_name("TYPE_FP64")

# ta_answer of csrc/forest.h.
_ALL, _CLASS, _TWO = 0, 1, 2


class FilBackend(Backend):
    """Tree ensembles on the CPU. Any thread."""

    name = "fil"
    kinds = (InstanceKind.CPU, InstanceKind.MODEL)

    def inspect(self, path: Path, proto: Any) -> ModelIO:
        """Input and outputs of the model at `path`, a file or a version's directory, with the parameters of `proto`.

        `treeshap_output` is one of them only where the config has it. The ensemble travels on to `load`.
        """
        options = model_options(proto)
        file = sources.find(path, options, proto.name)
        opened = OpenedEnsemble(file, options, self.read(file, options, proto.name))
        assert opened.ensemble is not None
        return _described(opened.ensemble, options, proto, opened)

    def load(self, context: LoadContext) -> LoadedModel:
        """The model, laid out, checked against its config."""
        return FilModel(self, context)

    def read(self, file: Path, options: Options, model: str) -> Ensemble:
        """The ensemble in a file. ServerError."""
        allow = self.settings.get("allow-pickle", "false").lower()
        if allow not in ("true", "false", "1", "0"):
            raise InvalidArg(f"--backend-config=fil,allow-pickle is '{allow}', expected true or false")
        return sources.read(file, options, model, allow in ("true", "1"))


@dataclass(slots=True)
class OpenedEnsemble:
    """What inspection has read. One load may take it."""

    file: Path
    options: Options
    ensemble: Ensemble | None

    def take(self, file: Path, options: Options) -> Ensemble | None:
        """The ensemble, when it is of this file, read in this way, and still there."""
        ensemble, self.ensemble = self.ensemble, None
        return ensemble if (self.file, self.options) == (file, options) else None

    def close(self) -> None:
        """Drops the ensemble when no load took it."""
        self.ensemble = None


class FilModel(LoadedModel):
    """One version. Its instances share the forest; each has some scratch memory of its own."""

    thread_bound = False

    def __init__(self, backend: FilBackend, context: LoadContext) -> None:
        config, proto = context.config, context.config.proto
        options = model_options(proto)
        file = sources.find(context.path, options, config.name)
        opened = context.opened
        ensemble = opened.take(file, options) if isinstance(opened, OpenedEnsemble) else None
        if ensemble is None:
            ensemble = backend.read(file, options, config.name)
        check_against_model(proto, _described(ensemble, options, proto))
        if len(proto.input) != 1 or not any(output.name == OUTPUT for output in proto.output):
            raise InvalidArg(
                f"unable to load model '{config.name}': it has one input, '{INPUT}', and output '{OUTPUT}'"
            )
        types = {io.name: io.data_type for io in (*proto.input, *proto.output)}
        self._context = context
        self._booster = ensemble.booster
        self._columns = ensemble.n_features
        self._shap: Forest | None = None
        doubles = types[INPUT] == _FP64, types[OUTPUT] == _FP64
        try:
            self._forest = _forest(ensemble, options, proto, doubles)
            if SHAP in types:
                self._shap = _forest(ensemble, options, proto, doubles, shap=True)
        except Fault as fault:
            raise InvalidArg(f"unable to load model '{config.name}' from {file.name}: {fault.message}") from None
        _tell(config.name, file, ensemble, options)

    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
        """An instance of the forest; of linear trees one that asks LightGBM."""
        context = self._context
        if self._booster is not None:
            return LinearInstance(name, context.pool, self._booster, self._forest, context.signature)
        return FilInstance(name, self._forest, self._shap, context.signature, context.pool)

    def close(self) -> None:
        """Nothing is open: forests end with their last instance."""


def _forest(
    ensemble: Ensemble, options: Options, proto: Any, doubles: tuple[bool, bool], *, shap: bool = False
) -> Forest:
    # `doubles`: whether rows come, and answers go, as such.
    double_rows, double_answers = doubles
    # A double is compared as such only where the library does so, too.
    wide = double_rows and not (ensemble.float32_rows or options.rounded)
    layout = lay_out(ensemble, wide=wide, rounded=options.rounded, shap=shap)
    if shap and ensemble.booster is not None:
        raise Fault("contributions are not given for linear trees: remove the output 'treeshap_output'")
    return Forest(
        ensemble, layout, _answer(ensemble, options, proto), _link(ensemble, options), options.threshold,
        options.missing, double_rows, double_answers,
    )  # fmt: skip


def _link(ensemble: Ensemble, options: Options) -> Link:
    return Link.IDENTITY if options.output_margin else ensemble.link


def _is_classifier(ensemble: Ensemble, options: Options) -> bool:
    return ensemble.classifier if options.is_classifier is None else options.is_classifier


def _answer(ensemble: Ensemble, options: Options, proto: Any) -> int:
    """FIL's rules: a class, unless probabilities are asked for or it is no classifier."""
    if options.output_margin:
        return _ALL
    if not options.predict_proba:
        return _CLASS if _is_classifier(ensemble, options) else _ALL
    # One probability of two classes is enough; a config may ask for both.
    two = any(io.name == OUTPUT and _dims(io) == (2,) for io in proto.output)
    return _TWO if two and ensemble.n_outputs == 1 and ensemble.link is Link.SIGMOID else _ALL


def _dims(io: Any) -> tuple[int, ...]:
    return tuple(io.reshape.shape) if io.HasField("reshape") else tuple(io.dims)


def _described(ensemble: Ensemble, options: Options, proto: Any, opened: OpenedEnsemble | None = None) -> ModelIO:
    given = {io.name: io for io in (*proto.input, *proto.output)}

    def datatype(name: str) -> int:
        # Doubles are taken and given where the config asks for them.
        io = given.get(name)
        return _FP64 if io is not None and io.data_type == _FP64 else _FP32

    answer = _answer(ensemble, options, proto)
    classes, targets = ensemble.n_classes, ensemble.n_targets
    width = (classes, 1, 2)[answer]
    shape = (targets, width) if targets > 1 and width > 1 else (targets * width,)
    outputs = [TensorInfo(OUTPUT, datatype(OUTPUT), (-1, *shape))]
    if SHAP in given:
        columns = ensemble.n_features + 1
        outputs.append(
            TensorInfo(SHAP, _FP32, (-1, columns) if ensemble.n_outputs == 1 else (-1, ensemble.n_outputs, columns))
        )
    return ModelIO(
        (TensorInfo(INPUT, datatype(INPUT), (-1, ensemble.n_features)),), tuple(outputs), opened=opened,
        preferred_batch_size=FOREST_BATCH_SIZE,
    )  # fmt: skip


def _tell(model: str, file: Path, ensemble: Ensemble, options: Options) -> None:
    what = "; ".join(ensemble.notes)
    log.info("model '%s': %s has %d trees for %d features (%s)", model, file.name, len(ensemble.trees),
             ensemble.n_features, what)  # fmt: skip
    if options.idle:
        log.warning(
            "model '%s': no effect on the CPU, where this server has layouts and threads of its own: %s", model,
            ", ".join(options.idle),
        )  # fmt: skip
    if options.predict_proba and not _is_classifier(ensemble, options):
        log.warning("model '%s': parameter 'predict_proba' has no effect on a model that is no classifier", model)
