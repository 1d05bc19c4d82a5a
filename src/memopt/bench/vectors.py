"""Question: which neighbours does a vector lose when it is stored as int8 or int4?

Method: the vectors of different texts of the conversations; some of the texts are asked for, with
the vector as it is, among all others as they are stored. Recall at k is the share of the k nearest
that are still among the k nearest; beside it the largest change of a cosine, and bytes by vector.
Baseline: float32, exact; and float16, which is half of that.
Not measured: what becomes of the answers (recall), for near ties may change places at no harm.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from memopt.bench import data
from memopt.bench.command import BenchOptions, main, say, scratch
from memopt.bench.embedding import sliced
from memopt.bench.measure import machine
from memopt.codecs.vectors import VectorCodec, dequantise, quantisation_error, quantise
from memopt.embedding.static import StaticEmbedder

_KS: Final = (1, 2, 5, 10, 20, 50, 100)
_QUERIES: Final = 500


def run(options: BenchOptions) -> dict[str, Any]:
    """Recall at each k, error and bytes by codec, and a plot in `options.out`."""
    files = [str(path) for path in options.files or (data.trajectories(),)]
    texts = sliced(files, 600 if options.quick else 12_000)
    vectors = StaticEmbedder().embed(texts)
    queries = np.random.default_rng(options.seed).choice(
        len(texts), min(_QUERIES, len(texts) // 4), replace=False
    )
    cosines = _cosines(vectors, vectors, queries)
    figures: dict[str, dict[str, Any]] = {}
    for name, stored, bytes_each in _stored(vectors):
        found = _cosines(vectors, stored, queries)
        figures[name] = {
            "bytes_per_vector": bytes_each,
            "cosine_change_max": round(float(np.abs(found - cosines).max()), 5),
            "recall": {str(k): _recall(cosines, found, k) for k in _KS if k < len(texts)},
        }
    for codec in VectorCodec:
        errors = quantisation_error(vectors, quantise(vectors, codec))
        figures[codec]["error_mean"] = round(float(errors.mean()), 5)
    plot(figures, options.out)
    with scratch(options) as home:
        return {
            "texts": len(texts),
            "queries": len(queries),
            "codecs": figures,
            "machine": machine(home),
        }


def plot(figures: dict[str, dict[str, Any]], out: Path) -> None:
    """Recall against k."""
    if importlib.util.find_spec("matplotlib") is None:
        say("vectors: no plot, matplotlib is not installed")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    out.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, found in figures.items():
        label = f"{name}, {found['bytes_per_vector']} bytes"
        ks = [int(k) for k in found["recall"]]
        axes.plot(ks, list(found["recall"].values()), "o-", label=label)
    axes.set_xscale("log")
    axes.set_xticks(_KS, [str(k) for k in _KS])
    axes.set_xlabel("k nearest")
    axes.set_ylabel("share that is still among them")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out / "vectors.png", dpi=120)
    pyplot.close(figure)


def _stored(vectors: Any) -> list[tuple[str, Any, int]]:
    """(codec, what comes back, bytes by vector)."""
    half = vectors.astype(np.float16)
    rest = [("float16", half.astype(np.float32), half[0].nbytes)]
    for codec in VectorCodec:
        quantised = quantise(vectors, codec)
        size_bytes = quantised.codes[0].nbytes + quantised.scales[0].nbytes
        rest.append((codec.value, dequantise(quantised), size_bytes))
    return rest


def _cosines(vectors: Any, stored: Any, queries: Any) -> Any:
    """Of each query with all but itself."""
    found = vectors[queries] @ stored.T
    found[np.arange(len(queries)), queries] = -2
    return found


def _recall(exact: Any, found: Any, k: int) -> float:
    nearest = np.argpartition(-exact, k - 1, axis=1)[:, :k]
    still = np.argpartition(-found, k - 1, axis=1)[:, :k]
    shares = [len(np.intersect1d(a, b)) / k for a, b in zip(nearest, still, strict=True)]
    return round(float(np.mean(shares)), 4)


if __name__ == "__main__":
    sys.exit(main("vectors", __doc__))
