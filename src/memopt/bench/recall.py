"""Question: does recall find the evidence, how soon, and in how many bytes?

Method: in this process.
1. Evidence: each question of LoCoMo (five dialogues), LongMemEval and HotpotQA is asked of the
   index of its own memory. HotpotQA's memories are filled with the paragraphs that BM25 finds
   nearest to the question, to 30,000 tokens; titles are indexed, never returned. A token is four
   characters, and every character of every returned text is charged. `ranked` is memopt with
   weights that were fitted without the dialogue that is asked (tools/fit_ranking.py); `shipped`
   has seen it. Baselines, on the same index and with the same measures: BM25, the cosine of the
   same vectors, a plain weighted sum of both with neighbours' BM25, and the newest texts, as a
   sliding window has them. Intervals hold 95 % of 2,000 bootstrap means;
   differences are paired by question.
2. Latency: a scope of 6,000 short messages in RAM, a question at a time: analysis, embedding,
   ranking. What a fault costs: decoding the segment and making the index.
3. Bytes: encoded entries of those messages, without compression, in one segment and in segments
   as seals make them, with vectors of 8 and of 4 bits.
Not measured: a model's answers; the store around the index (`memopt replay`); other embedders.
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from memopt.base.errors import UsageError
from memopt.base.records import to_datetime
from memopt.bench.command import BenchOptions, main, say
from memopt.bench.data import find
from memopt.bench.evidence import Asked, ask, difference, figure, measures_of
from memopt.bench.measure import LatencyHistogram, machine, median
from memopt.bench.questions import SETS, Material, materials_of
from memopt.embedding.static import StaticEmbedder
from memopt.recall.entries import Draft, Entries
from memopt.recall.index import ScopeIndex
from memopt.recall.query import Query
from memopt.recall.ranking import Ranker, plain_scores
from memopt.recall.weights import read_several
from memopt.text.analysis import Analyser

FOLD_WEIGHTS: Final = Path(__file__).with_name("fold_weights.json")

_BARS: Final = {
    "locomo": {"evidence_at_10": 0.83, "evidence_within_1024_tokens": 0.86},
    "longmemeval": {"sessions_at_5": 0.86, "user_turns_at_10": 0.80},
    "hotpotqa": {"evidence_within_256_tokens": 0.82},
}
_ITEMS: Final = 6_000
_SHORT_CHARS: Final = 600
"""Longer texts are no messages of the kind that latency and bytes are measured on."""
_SEAL_MESSAGES: Final = 26
_FAULTS: Final = 9
_QUICK_MATERIALS: Final = 6
_QUICK_QUESTIONS: Final = 40

Array = np.ndarray[Any, Any]
Order = Callable[[Asked], Array]


def run(options: BenchOptions) -> dict[str, Any]:
    embedder = StaticEmbedder()
    result: dict[str, Any] = {"space": embedder.space, "sets": {}}
    known: dict[str, list[Material]] = {}
    for name, file in SETS.items():
        path = find(file)
        if path is None:
            say(f"{name} is skipped: {file} is not in the data directory")
            continue
        known[name] = _materials(name, path, quick=options.quick)
        result["sets"][name] = _judged(name, ask(known[name], embedder), options.seed)
    drafts = list(itertools.islice(_short(known), _ITEMS))
    if not drafts:
        raise UsageError("there is no data to measure on: set MEMOPT_DATA", field="data")
    questions = [q.text for one in known.get("locomo", []) for q in one.questions] or ["what?"]
    result["latency"] = _latency(drafts, questions, embedder)
    result["bytes"] = _bytes(drafts, embedder)
    result["machine"] = machine(Path.cwd())
    return result


def _materials(name: str, path: Path, *, quick: bool) -> list[Material]:
    if not quick:
        return list(materials_of(name, path))
    some = itertools.islice(materials_of(name, path), _QUICK_MATERIALS)
    return [one._replace(questions=one.questions[:_QUICK_QUESTIONS]) for one in some]


# -- evidence -------------------------------------------------------------------------------------


def _judged(name: str, asked: Sequence[Asked], seed: int) -> dict[str, Any]:
    orders = _methods()
    values: dict[str, dict[str, list[float]]] = {}
    measures = measures_of(name)
    for method, order_of in orders.items():
        found = [(one, order_of(one)) for one in asked]
        for measure, (judge, counts) in measures.items():
            kept = [judge(one, order) for one, order in found if counts(one)]
            values.setdefault(measure, {})[method] = kept
    judged: dict[str, Any] = {}
    for measure, by_method in values.items():
        ranked = by_method["ranked"]
        judged[measure] = {
            "bar": _BARS[name][measure],
            **{method: figure(kept, seed)._asdict() for method, kept in by_method.items()},
            "ranked_above_plain": difference(ranked, by_method["plain"], seed)._asdict(),
            "ranked_above_bm25": difference(ranked, by_method["bm25"], seed)._asdict(),
        }
    return judged


def _methods() -> dict[str, Order]:
    """Each gives the entries of a question's memory, best first."""
    rankers = [Ranker(weights) for weights in read_several(FOLD_WEIGHTS)]

    def by(scores_of: Callable[[Asked], Array]) -> Order:
        return lambda one: one.returnable[
            np.argsort(-scores_of(one)[one.returnable], kind="stable")
        ]

    def ranked(ranker_of: Callable[[Asked], Ranker]) -> Order:
        return lambda one: ranker_of(one).rank_scan(one.scan, one.returnable).numbers

    return {
        "ranked": ranked(lambda one: rankers[one.fold]),
        "shipped": ranked(lambda one: Ranker.shipped()),
        "plain": by(lambda one: plain_scores(one.scan)),
        "bm25": by(lambda one: one.scan.words),
        "cosine": by(lambda one: one.scan.meaning),
        "window": by(_newest),
    }


def _newest(one: Asked) -> Array:
    """The newest first; of one time, the last."""
    entries = one.index.entries
    order = np.lexsort((entries.seq, entries.source, entries.at_us))
    return np.argsort(order)


# -- latency and bytes ----------------------------------------------------------------------------


def _short(known: dict[str, list[Material]]) -> Iterator[Draft]:
    """Short messages of all sets, each source a session of its own."""
    for number, one in enumerate(itertools.chain.from_iterable(known.values())):
        for draft in one.drafts:
            if len(draft.text) <= _SHORT_CHARS:
                yield Draft(
                    source=(number + 1 << 20) + draft.source,
                    seq=draft.seq,
                    at_us=draft.at_us,
                    text=draft.text,
                    role=draft.role,
                    speaker=draft.speaker,
                )


def _latency(drafts: list[Draft], questions: list[str], embedder: StaticEmbedder) -> dict[str, Any]:
    analyser = Analyser()
    begun = time.perf_counter()
    entries = Entries.of(drafts, embedder=embedder, analyser=analyser)
    made_seconds = time.perf_counter() - begun
    raw = entries.encode()
    faults = []
    for _ in range(_FAULTS):
        begun = time.perf_counter()
        index = ScopeIndex.of([Entries.decode(raw)])
        faults.append(time.perf_counter() - begun)
    ranker = Ranker.shipped()
    now = to_datetime(max(draft.at_us for draft in drafts))
    histogram = LatencyHistogram()
    for warm in (True, False):
        for text in questions[:100] if warm else questions:
            begun_ns = time.perf_counter_ns()
            query = Query.of(
                text,
                analyser=analyser,
                embedder=embedder,
                speakers=index.speakers,
                now=now,
            )
            ranker.rank(index, query)
            if not warm:
                histogram.add(time.perf_counter_ns() - begun_ns)
    return {
        "items": len(index),
        "questions": histogram.count,
        "recall_us": msgspec.to_builtins(histogram.quantiles()),
        "bar_us": {"p50": 2_000, "p99": 5_000},
        "fault_ms": round(median(faults) * 1e3, 2),
        "entry_us": round(made_seconds / len(drafts) * 1e6, 1),
        "resident_bytes_an_item": round(index.charged_bytes / len(index)),
    }


def _bytes(drafts: list[Draft], embedder: StaticEmbedder) -> dict[str, Any]:
    entries = Entries.of(drafts, embedder=embedder, analyser=Analyser())
    seals = [
        entries.take(np.arange(at, min(at + _SEAL_MESSAGES, len(entries))))
        for at in range(0, len(entries), _SEAL_MESSAGES)
    ]
    count = len(entries)
    return {
        "text_bytes": round(sum(len(draft.text.encode()) for draft in drafts) / count),
        "bar_bytes": 450,
        "merged": {
            f"vectors_{bits}_bits": round(len(entries.encode(vector_bits=bits)) / count)
            for bits in (8, 4)
        },
        "as_sealed": {
            f"vectors_{bits}_bits": round(
                sum(len(seal.encode(vector_bits=bits)) for seal in seals) / count
            )
            for bits in (8, 4)
        },
    }


if __name__ == "__main__":
    sys.exit(main("recall", __doc__))
