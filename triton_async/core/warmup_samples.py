"""The load threads' part of warm-up: from the samples of a config to tensors that the model takes. Blocking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from triton_async import datatypes, defines
from triton_async.config.model_config import ModelConfig
from triton_async.config.paths import read_bounded
from triton_async.config.warmup import FOLDER, WarmUpData, WarmUpInput, WarmUpSample
from triton_async.errors import InvalidArg, ServerError
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature
from triton_async.infer.tensor import Tensor, make

BYTES = datatypes.from_name("BYTES")
BOOL = datatypes.from_name("BOOL")
BF16 = datatypes.from_name("BF16")
FLOATS = {datatypes.from_name(name) for name in ("FP16", "FP32", "FP64")}


@dataclass(frozen=True, slots=True)
class Sample:
    """`batch_size` requests with these tensors, run together `count` times. `injected`: controls and states of
    sequences that the sample gives, in place of those that a sequence of one request would get.
    """

    name: str
    batch_size: int
    count: int
    tensors: Sequence[Tensor]
    injected: Sequence[Tensor] = ()

    def request(self, signature: ModelSignature) -> InferRequest:
        """A new one, which asks for all outputs."""
        made = InferRequest(signature.model_name, signature.model_version, inputs=list(self.tensors))
        if len(signature.inputs) > len(signature.client_inputs):
            made.flags = 3  # START and END, for what the sample leaves out of the controls
        made.context = self.injected
        return made


def read_samples(config: ModelConfig, signature: ModelSignature, model_dir: Path) -> list[Sample]:
    """The samples of a version, whose files lie below `model_dir`. InvalidArg, naming the sample, when one can not be
    made, or when the model does not take such a request.
    """
    made = []
    for sample in config.warm_up:
        where = f"model_warmup sample '{sample.name}' of model '{config.name}'"
        most = max(1, config.max_batch_size)
        if sample.batch_size > most:
            raise InvalidArg(
                f"failed to run warmup sample '{sample.name}': 'batch_size' of {where} is {sample.batch_size}, must be "
                f"<= {most}" + ("" if config.max_batch_size else " for a model that does not support batching")
            )
        try:
            found = _read(sample, config, signature, model_dir)
            signature.validate(found.request(signature))
        except ServerError as error:
            raise InvalidArg(
                f"failed to run warmup sample '{sample.name}': {error.message} (in 'inputs' of {where})"
            ) from None
        made.append(found)
    return made


def _read(sample: WarmUpSample, config: ModelConfig, signature: ModelSignature, model_dir: Path) -> Sample:
    known = {spec.name: spec for spec in signature.inputs[len(signature.client_inputs) :]}
    tensors, injected = [], []
    for given in sample.inputs:
        shape = (1, *given.dims) if config.max_batch_size > 0 else given.dims
        tensor = make(given.name, given.datatype, shape, _content(sample, given, model_dir))
        spec = known.get(given.name)
        if spec is None:
            tensors.append(tensor)
            continue
        fits = len(spec.dims) == len(given.dims) and all(
            dim in (-1, size) for dim, size in zip(spec.dims, given.dims, strict=True)
        )
        if given.datatype != spec.datatype or not fits:
            raise InvalidArg(
                f"input '{given.name}' is {datatypes.to_config_name(given.datatype)} {list(given.dims)}, but "
                f"'sequence_batching' says {datatypes.to_config_name(spec.datatype)} {list(spec.dims)}"
            )
        injected.append(tensor)
    return Sample(sample.name, sample.batch_size, sample.count, tensors, injected)


def _content(sample: WarmUpSample, given: WarmUpInput, model_dir: Path) -> bytes:
    if given.data is WarmUpData.FILE:
        return _file_content(given, model_dir)
    # Random strings are empty ones, as in Triton.
    if given.data is WarmUpData.ZERO or given.datatype == BYTES:
        return bytes(given.nbytes)
    return _random(given, crc32(f"{sample.name}/{given.name}".encode()))


def _file_content(given: WarmUpInput, model_dir: Path) -> bytes:
    what = f"{model_dir.name}/{FOLDER}/{given.filename} of input '{given.name}'"
    content = read_bounded(model_dir / FOLDER / given.filename, what, defines.MAX_WARMUP_NBYTES)
    if given.datatype == BYTES:
        return content
    if len(content) < given.nbytes:
        raise InvalidArg(
            f"warmup setting expects {given.nbytes} bytes, but the data provided from {given.filename} only has "
            f"{len(content)} bytes"
        )
    # More than that is left alone, as by Triton.
    return content[: given.nbytes]


def _random(given: WarmUpInput, seed: int) -> bytes:
    """The same at every load. Numbers of any value for integers; from 0 to 1 for floats, of whose bit patterns some
    are no numbers and some are slow.
    """
    source = np.random.default_rng(seed)
    count = given.nbytes // datatypes.element_size(given.datatype)
    if given.datatype == BOOL:
        return source.integers(0, 2, count, np.uint8).tobytes()
    if given.datatype in FLOATS:
        return source.random(count).astype(datatypes.numpy_dtype(given.datatype)).tobytes()
    if given.datatype == BF16:
        return (source.random(count, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return source.bytes(given.nbytes)
