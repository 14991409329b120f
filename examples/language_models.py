"""The example models that read and write language: a sentence encoder with real weights, a random decoder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx_graph import FLOAT, INT64, GraphBuilder
from transformer import Layers, Shape, Weights, causal_mask, padding_mask

# The decoder that has learnt nothing.
DECODER = Shape(width=64, heads=4, epsilon=1e-5)
DECODER_LAYERS = 2
DECODER_LENGTH = 128
WORDS = Path(__file__).resolve().parent / "models" / "decoder" / "words.txt"


def read_safetensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The FP32 tensors of a safetensors file: a header in JSON behind its length, then the data."""
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:begin]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            data = np.frombuffer(content, np.float32, (end - start) // 4, begin + start)
            tensors[name] = data.reshape(entry["shape"])
    return tensors


def sentence_encoder(weights: Path) -> onnx.ModelProto:
    """all-MiniLM-L6-v2: tokens to the mean of their last states, of length one."""
    config = json.loads((weights.parent / "config.json").read_text())
    tensors = read_safetensors(weights)
    graph = GraphBuilder("sentence_encoder")
    layers = Layers(
        graph, tensors, Shape(config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"])
    )
    # There is one sentence at a time, so all tokens are of the first type.
    kind = graph.constant(tensors["embeddings.token_type_embeddings.weight"][0], np.float32)
    hidden = graph.add("Add", [layers.embedded("input_ids", "embeddings"), kind])
    hidden = layers.normalised(hidden, "embeddings.LayerNorm")
    mask = padding_mask(graph, "attention_mask")
    for number in range(config["num_hidden_layers"]):
        hidden = layers.layer(hidden, mask, f"encoder.layer.{number}")
    kept = graph.add("Unsqueeze", [graph.add("Cast", ["attention_mask"], to=FLOAT), graph.constant([2], np.int64)])
    axis = graph.constant([1], np.int64)
    total = graph.add("ReduceSum", [graph.add("Mul", [hidden, kept]), axis], keepdims=0)
    mean = graph.add("Div", [total, graph.add("ReduceSum", [kept, axis], keepdims=0)])
    graph.add("LpNormalization", [mean], "embedding", axis=-1, p=2)
    tokens = (INT64, ["batch", "length"])
    return graph.model(
        {"input_ids": tokens, "attention_mask": tokens}, {"embedding": (FLOAT, ["batch", config["hidden_size"]])}
    )


def _random_weights(words: int) -> Weights:
    """Weights of the decoder, drawn with a fixed seed so that every build answers alike."""
    random = np.random.default_rng(64)
    width = DECODER.width

    def drawn(*shape: int) -> npt.NDArray[np.float32]:
        return random.standard_normal(shape, dtype=np.float32) / np.float32(math.sqrt(shape[-1]))

    weights: dict[str, npt.NDArray[np.float32]] = {
        "embeddings.word_embeddings.weight": drawn(words, width) * np.float32(8),
        "embeddings.position_embeddings.weight": drawn(DECODER_LENGTH, width) * np.float32(4),
        "scores.weight": drawn(width, words) * np.float32(math.sqrt(words / width) * 2),
    }
    for number in range(DECODER_LAYERS):
        name = f"layer.{number}"
        for part in ("query", "key", "value"):
            weights[f"{name}.attention.self.{part}.weight"] = drawn(width, width) * np.float32(2)
            weights[f"{name}.attention.self.{part}.bias"] = np.zeros(width, np.float32)
        for part, shape in (
            ("attention.output.dense", (width, width)),
            ("intermediate.dense", (4 * width, width)),
            ("output.dense", (width, 4 * width)),
        ):
            weights[f"{name}.{part}.weight"] = drawn(*shape)
            weights[f"{name}.{part}.bias"] = np.zeros(shape[0], np.float32)
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            weights[f"{name}.{part}.weight"] = np.ones(width, np.float32)
            weights[f"{name}.{part}.bias"] = np.zeros(width, np.float32)
    return weights


def decoder() -> onnx.ModelProto:
    """A small causal decoder with random weights: tokens to the scores of the next one."""
    words = len(WORDS.read_text(encoding="utf-8").split())
    weights = _random_weights(words)
    graph = GraphBuilder("decoder")
    layers = Layers(graph, weights, DECODER)
    hidden = layers.embedded("tokens", "embeddings")
    mask = causal_mask(graph, "tokens")
    for number in range(DECODER_LAYERS):
        hidden = layers.layer(hidden, mask, f"layer.{number}")
    last = graph.add("Gather", [hidden, graph.constant(-1, np.int64)], axis=1)
    graph.add("MatMul", [last, graph.constant(weights["scores.weight"], np.float32)], "scores")
    return graph.model(
        {"tokens": (INT64, ["batch", "length"])},
        {"scores": (FLOAT, ["batch", words])},
    )
