"""Transformer layers as ONNX nodes, after BERT: attention and feed-forward, each followed by its normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx_graph import GraphBuilder

Weights = Mapping[str, npt.NDArray[np.float32]]
# What is added to the score of a place that may not be looked at.
HIDDEN_PLACE = -1e9


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer."""

    width: int
    heads: int
    epsilon: float = 1e-12


class Layers:
    """Appends layers to a graph; the weights are named as Hugging Face names those of BERT."""

    def __init__(self, graph: GraphBuilder, weights: Weights, shape: Shape) -> None:
        self._graph = graph
        self._weights = weights
        self._shape = shape

    def _weight(self, name: str) -> str:
        return self._graph.constant(self._weights[name], np.float32)

    def linear(self, source: str, name: str) -> str:
        """source x weight + bias; PyTorch keeps the weight transposed."""
        weight = self._graph.constant(self._weights[f"{name}.weight"].T, np.float32)
        product = self._graph.add("MatMul", [source, weight])
        return self._graph.add("Add", [product, self._weight(f"{name}.bias")])

    def normalised(self, source: str, name: str) -> str:
        """Layer normalisation over the last axis."""
        scale, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._graph.add("LayerNormalization", [source, scale, bias], axis=-1, epsilon=self._shape.epsilon)

    def embedded(self, tokens: str, name: str) -> str:
        """The rows of a table that `tokens` [batch,length] names, plus the rows of the places."""
        graph = self._graph
        length = graph.add("Gather", [graph.add("Shape", [tokens]), graph.constant(1, np.int64)])
        zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
        places = graph.add("Range", [zero, length, one])
        words = graph.add("Gather", [self._weight(f"{name}.word_embeddings.weight"), tokens])
        rows = graph.add("Gather", [self._weight(f"{name}.position_embeddings.weight"), places])
        return graph.add("Add", [words, rows])

    def layer(self, source: str, mask: str, name: str) -> str:
        """One layer on [batch,length,width]; `mask` is added to the scores [batch,heads,length,length]."""
        graph = self._graph
        attended = self.linear(
            self._attention(source, mask, f"{name}.attention.self"), f"{name}.attention.output.dense"
        )
        middle = self.normalised(graph.add("Add", [attended, source]), f"{name}.attention.output.LayerNorm")
        wide = self._gelu(self.linear(middle, f"{name}.intermediate.dense"))
        narrow = self.linear(wide, f"{name}.output.dense")
        return self.normalised(graph.add("Add", [narrow, middle]), f"{name}.output.LayerNorm")

    def _heads(self, source: str, order: list[int]) -> str:
        graph, shape = self._graph, self._shape
        split = graph.constant([0, 0, shape.heads, shape.width // shape.heads], np.int64)
        return graph.add("Transpose", [graph.add("Reshape", [source, split])], perm=order)

    def _attention(self, source: str, mask: str, name: str) -> str:
        graph, shape = self._graph, self._shape
        query = self._heads(self.linear(source, f"{name}.query"), [0, 2, 1, 3])
        key = self._heads(self.linear(source, f"{name}.key"), [0, 2, 3, 1])
        value = self._heads(self.linear(source, f"{name}.value"), [0, 2, 1, 3])
        scale = graph.constant(np.sqrt(shape.heads / shape.width), np.float32)
        scores = graph.add("Mul", [graph.add("MatMul", [query, key]), scale])
        attention = graph.add("Softmax", [graph.add("Add", [scores, mask])], axis=-1)
        mixed = graph.add("Transpose", [graph.add("MatMul", [attention, value])], perm=[0, 2, 1, 3])
        return graph.add("Reshape", [mixed, graph.constant([0, 0, shape.width], np.int64)])

    def _gelu(self, source: str) -> str:
        graph = self._graph
        root, one, half = (graph.constant(value, np.float32) for value in (np.sqrt(0.5), 1.0, 0.5))
        bent = graph.add("Add", [graph.add("Erf", [graph.add("Mul", [source, root])]), one])
        return graph.add("Mul", [graph.add("Mul", [source, bent]), half])


def padding_mask(graph: GraphBuilder, attention_mask: str) -> str:
    """[batch,1,1,length]: 0 where `attention_mask` [batch,length] is 1."""
    kept = graph.add("Cast", [attention_mask], to=1)
    lost = graph.add("Sub", [graph.constant(1.0, np.float32), kept])
    wide = graph.add("Unsqueeze", [lost, graph.constant([1, 2], np.int64)])
    return graph.add("Mul", [wide, graph.constant(HIDDEN_PLACE, np.float32)])


def causal_mask(graph: GraphBuilder, tokens: str) -> str:
    """[length,length]: 0 up to the own place, hidden behind it."""
    length = graph.add("Slice", [graph.add("Shape", [tokens]), *(graph.constant([n], np.int64) for n in (1, 2))])
    square = graph.add(
        "Expand", [graph.constant(HIDDEN_PLACE, np.float32), graph.add("Concat", [length, length], axis=0)]
    )
    return graph.add("Trilu", [square, graph.constant(1, np.int64)], upper=1)
