"""Which file is the model of a version, what it is by its bytes, and the reader for it. Load threads."""

from __future__ import annotations

from pathlib import Path

from triton_async.backends.fil import conversion, lightgbm_text, linear, xgboost_model
from triton_async.backends.fil.ensemble import Ensemble, Fault
from triton_async.backends.fil.options import FILES, Options
from triton_async.errors import InvalidArg, ServerError, Unavailable

_XGBOOST = ("xgboost", "xgboost_json", "xgboost_ubj")
# model_type -> what its file may be.
_FAMILIES = {
    **dict.fromkeys(_XGBOOST, ("XGBoost model", "XGBoost binary model")),
    "lightgbm": ("LightGBM text model",),
    "treelite_checkpoint": ("treelite checkpoint",),
    "pickle": ("pickle",),
}
_TYPES = {
    "XGBoost model": "xgboost_json or xgboost_ubj",
    "XGBoost binary model": "xgboost",
    "LightGBM text model": "lightgbm",
    "treelite checkpoint": "treelite_checkpoint",
    "pickle": "pickle",
}


def find(path: Path, options: Options, model: str) -> Path:
    """The model's file: `path`, or, when that is a version's directory, the file in it that has FIL's name for the
    model_type, or for another one. Unavailable when there is none.
    """
    if path.is_file():
        return path
    names = [FILES[options.model_type]] if options.model_type else []
    names += [name for name in FILES.values() if name not in names]
    for name in names:
        if (path / name).is_file():
            return path / name
    what = f"version directory '{path.name}'" if path.is_dir() else f"'{path.name}'"
    raise Unavailable(
        f"unable to load model '{model}': there is no model file in {what}, expected {names[0]}"
        + ("" if options.model_type else f" or one of {', '.join(names[1:])}")
        + "; name another one by 'default_model_filename'"
    )


def read(path: Path, options: Options, model: str, allow_pickle: bool) -> Ensemble:
    """The ensemble in a file. InvalidArg, with the model's and the file's name, the field and a remedy, for what can
    not be served; Unsupported when a library is missing.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unavailable(f"unable to load model '{model}': {path.name} can not be read: {error.strerror}") from None
    try:
        kind = _kind(data, options)
        if options.model_type and kind not in _FAMILIES[options.model_type]:
            raise Fault(
                f"it is a {kind}, and parameter 'model_type' is '{options.model_type}': write {_TYPES[kind]}, or leave "
                "the parameter out"
            )
        return _read(kind, path, data, options, allow_pickle)
    except ServerError as error:
        raise type(error)(f"unable to load model '{model}' from {path.name}: {error.message}") from None
    except (MemoryError, RecursionError) as error:
        raise InvalidArg(
            f"unable to load model '{model}' from {path.name}: it takes too much memory ({type(error).__name__})"
        ) from None


def _read(kind: str, path: Path, data: bytes, options: Options, allow_pickle: bool) -> Ensemble:
    if options.best_iteration and kind != "XGBoost model":
        raise Fault(f"parameter 'best_iteration' is for XGBoost's JSON and UBJSON, this is a {kind}: remove it")
    if kind == "XGBoost model":
        return xgboost_model.read(data, allow_unknown=options.allow_unknown, best_iteration=options.best_iteration)
    if kind == "LightGBM text model":
        ensemble = lightgbm_text.read(data)
        return linear.attach(ensemble, data) if ensemble.format == "lightgbm_linear" else ensemble
    if kind == "pickle":
        if not allow_pickle:
            raise Fault(
                "it is a pickle, and loading a pickle runs whatever code is in it, with the rights of this server. "
                "Convert it where it was made: treelite.sklearn.import_model(model).serialize('checkpoint.tl'). Or, if "
                "you trust everyone who can write to the model repository, start with "
                "--backend-config=fil,allow-pickle=true"
            )
        return conversion.convert("pickle", path, len(data))
    return conversion.convert("xgboost" if kind == "XGBoost binary model" else "treelite", path, len(data))


def _kind(data: bytes, options: Options) -> str:
    start = data.lstrip()[:16] if data[:1].isspace() else data[:16]
    if not start:
        raise Fault("it is empty")
    if start[:1] == b"{":
        return "XGBoost model"
    if start[:5] in (b"tree\n", b"tree\r"):
        return "LightGBM text model"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if start[:4] == b"binf":
        return "XGBoost binary model"
    major, minor = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")
    if 2 <= major <= 9 and minor < 100 and len(data) > 12:
        return "treelite checkpoint"
    if options.model_type in ("xgboost", "treelite_checkpoint"):
        # Old files of both begin with numbers; treelite will say what is wrong.
        return "XGBoost binary model" if options.model_type == "xgboost" else "treelite checkpoint"
    raise Fault(
        "it is none of the formats that are served: XGBoost JSON, UBJSON or binary, LightGBM text, treelite checkpoint"
    )
