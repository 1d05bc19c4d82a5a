"""Question: how much of what is meant does the default embedder find by its cosine alone?

Method: evidence of questions among the ten nearest texts (LoCoMo, LongMemEval; HotpotQA among all
its sentences, headed by their titles), pairs of questions with and without the same meaning (QQP:
the chance that one with it is the nearer), and the intent of the nearest bank question (banking77).
Vectors as they are made, and as int8 and int4.
Baseline: words alone, by BM25, and for pairs by the share of their terms that both have.
Not measured: recall as it is served, which puts words, vectors and more together (recall), and what
an answer from the cache needs besides (answers). A set that is not there is left out, with a line.
"""

import csv
import gzip
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from memopt.bench import data, questions
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.measure import machine
from memopt.codecs.vectors import VectorCodec, dequantise, quantise
from memopt.embedding.static import StaticEmbedder
from memopt.recall.entries import Draft, Entries
from memopt.recall.index import ScopeIndex
from memopt.text.analysis import Analyser

_FILES: Final = {
    "locomo": "locomo/locomo_dev5.json.gz",
    "longmemeval": "longmemeval/longmemeval_s_dev.json.gz",
    "hotpotqa": "hotpotqa/hotpotqa_dev.json.gz",
    "qqp": "semcache/qqp_pairs_dev.jsonl.gz",
    "banking77": "semcache/banking77_test.csv.gz",
}
_NEAREST: Final = 10
_PAIRS_MAX: Final = 20_000
_ASKED_AT_ONCE: Final = 500
_QUICK: Final = 40


class Search(NamedTuple):
    """Texts, and what is asked of them: numbers of the texts that answer it."""

    texts: list[str]
    asked: list[tuple[str, tuple[int, ...]]]


Scores = Callable[[Search], Iterator[Any]]
"""Of each that is asked, the scores of all texts."""


def run(options: BenchOptions) -> dict[str, Any]:
    """Figures by set and system."""
    some = _QUICK if options.quick else None
    sets: dict[str, Callable[[Path], dict[str, float]]] = {
        "locomo": lambda path: _found(_materials(questions.locomo(path), some)),
        "longmemeval": lambda path: _found(_materials(questions.longmemeval(path), some)),
        "hotpotqa": lambda path: _found([_sentences(path, some)]),
        "qqp": lambda path: _pairs(path, some),
        "banking77": lambda path: _intents(path, some),
    }
    figures: dict[str, dict[str, float]] = {}
    with progress_bar("likeness") as progress:
        for done, (name, work) in enumerate(sets.items()):
            progress(done, len(sets))
            path = data.find(_FILES[name])
            if path is None:
                say(f"likeness: {_FILES[name]} is not there")
                continue
            figures[name] = work(path)
    with scratch(options) as home:
        return {
            "space": StaticEmbedder().space,
            "sets": figures,
            "machine": machine(home),
        }


def _found(searches: Sequence[Search]) -> dict[str, float]:
    """The share of the evidence that is among the nearest, by system."""
    return {
        system: round(
            float(
                np.mean(
                    [
                        len(set(_top(scores, _NEAREST)) & set(gold)) / len(gold)
                        for search in searches
                        for scores, (_, gold) in zip(make(search), search.asked, strict=True)
                    ]
                )
            ),
            4,
        )
        for system, make in _systems().items()
    }


def _systems() -> dict[str, Scores]:
    embedder = StaticEmbedder()

    def by_vectors(store: Callable[[Any], Any]) -> Scores:
        def scores(search: Search) -> Iterator[Any]:
            stored = store(embedder.embed(search.texts))
            for at in range(0, len(search.asked), _ASKED_AT_ONCE):
                asked = embedder.embed([text for text, _ in search.asked[at : at + _ASKED_AT_ONCE]])
                yield from asked @ stored.T

        return scores

    return {
        "words": _by_words,
        "float32": by_vectors(lambda vectors: vectors),
        "int8": by_vectors(lambda vectors: dequantise(quantise(vectors))),
        "int4": by_vectors(lambda vectors: dequantise(quantise(vectors, VectorCodec.INT4))),
    }


def _by_words(search: Search) -> Iterator[Any]:
    analyser = Analyser()
    drafts = [
        Draft(source=number, seq=0, at_us=0, text=text) for number, text in enumerate(search.texts)
    ]
    index = ScopeIndex.of([Entries.of(drafts, embedder=None, analyser=analyser)])
    for text, _ in search.asked:
        yield index.weigh(sorted({*analyser.analyse(text).terms})).parts.sum(0)[:-1]


def _top(scores: Any, count: int) -> list[int]:
    order: list[int] = np.argsort(-scores, kind="stable")[:count].tolist()
    return order


def _materials(found: Sequence[questions.Material], some: int | None) -> list[Search]:
    return [
        Search(
            [draft.text for draft in material.drafts],
            [(question.text, question.gold) for question in material.questions[:some]],
        )
        for material in found[:some]
        if any(question.gold for question in material.questions)
    ]


def _sentences(path: Path, some: int | None) -> Search:
    samples = msgspec.json.decode(gzip.decompress(path.read_bytes()))[:some]
    places: dict[tuple[str, int], int] = {}
    texts: list[str] = []
    for sample in samples:
        for title, sentences in sample["context"]:
            for line, sentence in enumerate(sentences):
                if (title, line) not in places:
                    places[title, line] = len(texts)
                    texts.append(f"{title} {sentence}")
    asked = []
    for sample in samples:
        named = [(title, line) for title, line in sample["supporting_facts"]]
        gold = tuple(places[place] for place in named if place in places)
        if gold:
            asked.append((sample["question"], gold))
    return Search(texts, asked)


def _pairs(path: Path, some: int | None) -> dict[str, float]:
    """By system, the chance that of two pairs, one of them with the same meaning, that is the
    nearer (the area under the curve)."""
    lines = gzip.decompress(path.read_bytes()).splitlines()[: some or _PAIRS_MAX]
    pairs = [msgspec.json.decode(line) for line in lines]
    same = np.array([pair["label"] == 1 for pair in pairs])
    embedder, analyser = StaticEmbedder(), Analyser()
    one, other = (embedder.embed([pair[name] for pair in pairs]) for name in ("text_a", "text_b"))
    scores = {
        "words": np.array([_shared(analyser, pair["text_a"], pair["text_b"]) for pair in pairs]),
        "float32": (one * other).sum(1),
        "int8": (one * dequantise(quantise(other))).sum(1),
        "int4": (one * dequantise(quantise(other, VectorCodec.INT4))).sum(1),
    }
    return {system: round(_area(found, same), 4) for system, found in scores.items()}


def _shared(analyser: Analyser, one: str, other: str) -> float:
    left, right = ({*analyser.analyse(text).terms} for text in (one, other))
    return len(left & right) / max(1, len(left | right))


def _area(scores: Any, same: Any) -> float:
    """Ties count half."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positive, negative = int(same.sum()), int((~same).sum())
    return float((ranks[same].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _intents(path: Path, some: int | None) -> dict[str, float]:
    """By system, the share of the questions whose nearest has the same intent."""
    known = _rows(path.with_name(path.name.replace("test", "train")))
    asked = _rows(path)[:some]
    search = Search([text for text, _ in known], [(text, ()) for text, _ in asked])
    return {
        system: round(
            float(
                np.mean(
                    [
                        known[_top(scores, 1)[0]][1] == intent
                        for scores, (_, intent) in zip(make(search), asked, strict=True)
                    ]
                )
            ),
            4,
        )
        for system, make in _systems().items()
    }


def _rows(path: Path) -> list[tuple[str, str]]:
    text = gzip.decompress(path.read_bytes()).decode()
    return [(row["text"], row["category"]) for row in csv.DictReader(io.StringIO(text))]


if __name__ == "__main__":
    sys.exit(main("likeness", __doc__))
