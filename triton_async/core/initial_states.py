"""What the states of sequences begin with: zeros, or a file of the model. Load thread."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from triton_async import datatypes
from triton_async.config.model_config import ModelConfig
from triton_async.config.paths import safe_join
from triton_async.config.sequences import INITIAL_STATE_FOLDER, State
from triton_async.errors import InvalidArg
from triton_async.infer.tensor import Tensor, decode_bytes, make

_BYTES = datatypes.from_name("BYTES")


def read_initial_states(config: ModelConfig, model_dir: Path) -> list[Tensor]:
    """A Tensor for each state of the config, in its order. InvalidArg, naming file and state, for a file that is not
    there or has not the bytes of the state.
    """
    if config.sequences is None:
        return []
    return [_initial(state, config, model_dir) for state in config.sequences.states]


def _initial(state: State, config: ModelConfig, model_dir: Path) -> Tensor:
    shape = ((1,) if config.max_batch_size > 0 else ()) + state.initial_dims
    count = prod(shape)
    if not state.data_file:
        # An empty string is four zero bytes.
        zeros = np.zeros(count * (4 if state.datatype == _BYTES else datatypes.element_size(state.datatype)), np.uint8)
        return make(state.input_name, state.datatype, shape, zeros)
    where = f"initial state of '{state.input_name}' of model '{config.name}'"
    file = f"{INITIAL_STATE_FOLDER}/{state.data_file}"
    path = safe_join(model_dir, file, where)
    expected = count * datatypes.element_size(state.datatype)
    try:
        data = path.read_bytes() if state.datatype == _BYTES or path.stat().st_size == expected else None
        found = path.stat().st_size
    except OSError as error:
        raise InvalidArg(f"{where}: '{file}' can not be read: {error.strerror}") from None
    if data is None:
        raise InvalidArg(f"{where} expects {expected} bytes, but '{file}' has {found}")
    tensor = make(state.input_name, state.datatype, shape, data)
    if state.datatype == _BYTES:
        try:
            strings = len(decode_bytes(tensor))
        except ValueError:
            raise InvalidArg(f"{where}: '{file}' does not consist of strings with their lengths") from None
        if strings != count:
            raise InvalidArg(f"{where} expects {count} strings, but '{file}' has {strings}")
    return tensor
