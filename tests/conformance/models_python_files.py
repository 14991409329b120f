"""The conformance repositories of Python models: their config.pbtxt files, and the model.py files beside this one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).parent
FILES = _HERE / "python_models"
BACKENDS = _HERE / "python_backends"

_WHAT, _TEXT = ("WHAT", "STRING", "1"), ("TEXT", "STRING", "-1")
_X, _Y = ("X", "FP32", "-1"), ("Y", "FP32", "-1")
# Name, datatype and dims, and what else the block says.
Declared = tuple[str, ...]


def _blocks(kind: str, tensors: Sequence[Declared]) -> str:
    return "".join(
        f'{kind} {{ name: "{name}" data_type: TYPE_{dtype} dims: [ {dims} ] {" ".join(more)} }}\n'
        for name, dtype, dims, *more in tensors
    )


def _config(inputs: Sequence[Declared], outputs: Sequence[Declared], batch: int = 0, more: str = "") -> str:
    """A config.pbtxt of the Python backend."""
    head = f'backend: "python"\nmax_batch_size: {batch}\n'
    group = "" if "instance_group" in more else "instance_group { count: 1 kind: KIND_CPU }\n"
    return head + _blocks("input", inputs) + _blocks("output", outputs) + group + more


def _asked(more: str = "") -> str:
    """The config of a model that is asked by WHAT and answers by TEXT."""
    return _config([_WHAT], [_TEXT], more=more)


_OPTIONAL = "optional: true"
_DECOUPLED = "model_transaction_policy { decoupled: true }\n"
_INNER = _config([_X, ("MODE", "STRING", "1", _OPTIONAL)], [_Y, _TEXT])
_MANY = _config([_X], [_Y], more=_DECOUPLED)

# Served in mode none. Every name has a folder of model files.
MAIN = {
    "make": _config(
        [_WHAT, ("FP", "FP32", "-1", _OPTIONAL), ("STRINGS", "STRING", "-1", _OPTIONAL)],
        [("OUT", "FP32", "-1"), _TEXT, ("MORE", "INT32", "-1")],
    ),
    "tell": _config(
        [("A", "FP32", "-1", _OPTIONAL), ("B", "INT32", "-1, 2", _OPTIONAL), ("C", "STRING", "-1", _OPTIONAL)],
        [_TEXT, ("MORE", "FP32", "-1")],
    ),
    "misbehave": _asked(),
    "batched": _config(
        [_WHAT],
        [_TEXT, ("OUT", "FP32", "-1")],
        batch=3,
        more="dynamic_batching { preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 3000000 }\n",
    ),
    "surface": _asked(),
    "keeps": _config([("FP", "FP32", "-1")], [_TEXT]),
    "inner": _INNER,
    "many": _MANY,
    "middle": _config([_X], [_Y]),
    "twins": _config([_X], [_Y], more="instance_group { count: 2 kind: KIND_CPU }\n"),
    "bls": _asked(),
    "bls_async": _asked(),
    "bls_early": _asked(),
    "stream": _config(
        [("SCRIPT", "STRING", "-1")], [("TEXT", "STRING", "1"), ("INDEX", "INT32", "1")], more=_DECOUPLED
    ),
    "stream_async": _config([("DELAY", "FP32", "1")], [("DELAY_OUT", "FP32", "1")], more=_DECOUPLED),
    "gen": _config(
        [("PROMPT", "STRING", "-1"), ("COUNT", "INT32", "1", _OPTIONAL)],
        [_TEXT, ("TOLD", "STRING", "1"), ("SCORE", "FP32", "1"), ("FLAG", "BOOL", "1")],
    ),
    "metrics": _asked(),
}
_IN, _OUT = [("IN", "FP32", "-1")], [("OUT", "FP32", "-1")]
_FOUR = _config(_IN, _OUT, batch=4)
# None: no config.pbtxt.
_AUTO: dict[str, str | None] = {
    "plain": None,
    "optional": None,
    "decoupled": None,
    "larger": _FOUR,
    "smaller": _FOUR,
    "no_batching": _FOUR,
    "dictionary": _FOUR,
    "added": _FOUR,
    "wrong_type": _FOUR,
    "wrong_dims": _FOUR,
    "no_name": None,
    "no_dims": None,
    "unknown_property": None,
    "unknown_policy": None,
    "raises": None,
    "returns_nothing": None,
}
_CLASS = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
# Each fails to load in another way.
_BROKEN = {
    "fails_syntax": "def (\n",
    "fails_indent": "if True:\nx = 1\n",
    "fails_import": "import no_such_module_anywhere\n",
    "fails_class": "class Other:\n    pass\n",
    "fails_module": "raise RuntimeError('at import')\n",
    "fails_initialize": f"{_CLASS}\n    def initialize(self, args):\n        raise ValueError('cannot\\nstart')\n",
    "fails_key": f"{_CLASS}\n    def initialize(self, args):\n        args['no_such_key']\n",
    "no_execute": "class TritonPythonModel:\n    pass\n",
}


def _sample(what: str, x: str = "", head: str = 'name: "s" batch_size: 1') -> str:
    """A `model_warmup` with these settings of WHAT and X."""
    inputs = "".join(
        f'inputs {{ key: "{name}" value {{ {given} }} }}\n' for name, given in (("WHAT", what), ("X", x)) if given
    )
    return f"model_warmup {{ {head}\n{inputs} }}\n"


def _warm(*samples: str) -> str:
    return _config([_WHAT, ("X", "FP32", "2", _OPTIONAL)], [_TEXT], batch=8, more="".join(samples))


_STRING, _FP32 = "data_type: TYPE_STRING dims: [ 1 ]", "data_type: TYPE_FP32 dims: [ 2 ]"
_ZERO = _sample(f"{_STRING} zero_data: true")
# Models that are warmed up; all but the first fail by it.
_WARM = {
    "warm": _warm(
        _sample(f"{_STRING} random_data: true", f"{_FP32} zero_data: true", 'name: "z" batch_size: 3 count: 2'),
        _sample(f'{_STRING} input_data_file: "word"', f'{_FP32} input_data_file: "x"'),
        _sample(f"{_STRING} zero_data: true", head='name: "left out" batch_size: 0'),
    ),
    "warm_refuses": _warm(_sample(f'{_STRING} input_data_file: "refuse"')),
    "warm_short": _warm(_sample(f"{_STRING} zero_data: true", f'{_FP32} input_data_file: "short"')),
    "warm_missing": _warm(_sample(f'{_STRING} input_data_file: "nobody"')),
    "warm_type": _warm(_sample(f"{_STRING} zero_data: true", "data_type: TYPE_INT32 dims: [ 2 ] zero_data: true")),
    "warm_dims": _warm(_sample("data_type: TYPE_STRING dims: [ -1 ] zero_data: true")),
    "warm_no_data": _warm(_sample(_STRING)),
}
_WORDS = {name: len(name).to_bytes(4, "little") + name.encode() for name in ("word", "refuse")}
WARM_FILES = {**_WORDS, "x": bytes(range(8)), "short": bytes(4)}

# Served in explicit mode.
CONTROL = {
    "life": _asked('parameters { key: "colour" value { string_value: "red" } }\n'),
    "journal": _asked(),
    "control_bls": _asked(),
    "inner": _INNER,
    "metrics": _asked(),
    "surface": _asked(),
}
_BACKED = 'backend: "conformist"\nparameters { key: "factor" value { string_value: "3" } }\n'


def _write(root: Path, name: str, config: str | None, files: Path) -> Path:
    """A model's folder with a copy of `files`; returns its version folder."""
    version = root / name / "1"
    if files.is_dir():
        shutil.copytree(files, version, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        version.mkdir(parents=True)
        shutil.copy(files, version / "model.py")
    shutil.copy(FILES / "helpers.py", version)
    if config is not None:
        (root / name / "config.pbtxt").write_text(config)
    return version


def write_main(root: Path) -> Path:
    """The repository of mode none; returns `root`."""
    for name, config in MAIN.items():
        _write(root, name, config, FILES / name / "1")
    return root


def write_one(root: Path, name: str) -> Path:
    """One model of it alone; returns `root`."""
    _write(root, name, MAIN[name], FILES / name / "1")
    return root


def write_control(root: Path) -> Path:
    """The repository of explicit mode; returns `root`."""
    for name, config in CONTROL.items():
        _write(root, name, config, FILES / name / "1")
    for name, config in _WARM.items():
        folder = _write(root, name, config, FILES / "warm" / "1").parent / "warmup"
        folder.mkdir()
        for filename, content in WARM_FILES.items():
            (folder / filename).write_bytes(content)
    for name, completed in _AUTO.items():
        _write(root, f"auto_{name}", completed, FILES / "auto.py")
    for name, source in _BROKEN.items():
        (_write(root, name, _asked(), FILES / "auto.py") / "model.py").write_text(source)
    (root / "backed" / "1").mkdir(parents=True)
    (root / "backed" / "config.pbtxt").write_text(_BACKED)
    return root


def write_backends(root: Path, others: Path | None = None) -> Path:
    """A backend directory with ours, beside links to all of `others`; returns `root`."""
    shutil.copytree(BACKENDS, root, ignore=shutil.ignore_patterns("__pycache__"))
    for backend in sorted(others.iterdir()) if others else ():
        (root / backend.name).symlink_to(backend)
    return root
