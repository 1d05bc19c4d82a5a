"""Question: does recall find the evidence, how soon, and what do others find?

Method:
1. Evidence: each question of LoCoMo (five dialogues), LongMemEval and HotpotQA is asked of the
   index of its own memory. HotpotQA's memories are filled with the paragraphs that BM25 finds
   nearest to the question, to 30,000 tokens; titles are indexed, never returned. A token is four
   characters, and every character of every returned text is charged. LongMemEval's turns are those
   of users. `ranked` is memopt with weights that were fitted without the dialogue that is asked
   (five folds, tools/fit_ranking.py); `shipped` has seen it. Baselines, on the same index and with
   the same measures: BM25, the cosine of the same vectors, a plain weighted sum of both with
   neighbours' BM25, and the newest texts, as a sliding window has them. Intervals hold 95 % of
   2,000 bootstrap means; differences are paired by question.
2. The same memories, some of HotpotQA's, as sessions of a store: `memory.recall` with the shipped
   weights, its hits beside those of `shipped` above.
3. Latency: `memory.recall` of ten in a scope of 6,000 short messages, a question at a time,
   embedding and texts included; while the index is in RAM, and just after it was let go. `work`
   is the thread's time on a processor, without what others did meanwhile on a shared machine.
4. Peers (recall_peers), where they are installed: LangGraph's `InMemoryStore` and mem0 with
   `infer=False`, each in a process of its own, with memopt's embedder and the same messages.
Not measured: a model's answers; other embedders; indexes and their bytes (indexing).
"""

import itertools
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

import memopt
from memopt.base.errors import UsageError
from memopt.base.records import Durability
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.data import find
from memopt.bench.evidence import (
    Asked,
    ask,
    difference,
    figure,
    measures_of,
    plain_sum,
    plain_words,
)
from memopt.bench.measure import LatencyHistogram, machine, median
from memopt.bench.questions import SETS, Material, materials_of
from memopt.bench.recall_memory import Place, drafts_of, places_of, recalled, write
from memopt.bench.recall_peers import peers
from memopt.embedding.static import StaticEmbedder
from memopt.recall.ranking import Ranker
from memopt.recall.weights import read_several

FOLD_WEIGHTS: Final = Path(__file__).with_name("fold_weights.json")

_BARS: Final = {
    "locomo": {"evidence_at_10": 0.83, "evidence_within_1024_tokens": 0.86},
    "longmemeval": {"sessions_at_5": 0.86, "user_turns_at_10": 0.80},
    "hotpotqa": {"evidence_within_256_tokens": 0.82},
}
_BARS_MS: Final = {"p50": 2.0, "p99": 5.0, "faulted": 20.0}
_ITEMS: Final = 6_000
_SHORT_CHARS: Final = 600
"""Longer texts are no messages of the kind that latency is measured on."""
_LIMIT: Final = 10
_WARM: Final = 50
_FAULTS: Final = 15
_STORED: Final = {"locomo": 5, "longmemeval": 21, "hotpotqa": 20}
"""Memories that are written to a store, too."""
_QUICK_MATERIALS: Final = 3
_QUICK_QUESTIONS: Final = 20
_BUDGET: Final = "256MiB"

Array = np.ndarray[Any, Any]
Order = Callable[[Asked], Array]


def run(options: BenchOptions) -> dict[str, Any]:
    embedder = StaticEmbedder()
    result: dict[str, Any] = {"space": embedder.space, "sets": {}, "store": {}}
    known: dict[str, list[Material]] = {}
    for name, file in SETS.items():
        path = find(file)
        if path is None:
            say(f"{name} is skipped: {file} is not in the data directory")
            continue
        known[name] = _materials(name, path, quick=options.quick)
        asked = _asked(name, known[name], embedder)
        result["sets"][name] = _judged(name, asked, options.seed)
        result["store"][name] = _stored(options, name, known[name], asked)
    if "locomo" not in known:
        raise UsageError("there is nothing to measure latency on: set MEMOPT_DATA", field="data")
    result["latency"] = _latency(options, known)
    result["peers"] = peers(options, known["locomo"], FOLD_WEIGHTS)
    result["machine"] = machine(Path.cwd())
    return result


def _materials(name: str, path: Path, *, quick: bool) -> list[Material]:
    if not quick:
        return list(materials_of(name, path))
    some = itertools.islice(materials_of(name, path), _QUICK_MATERIALS)
    return [one._replace(questions=one.questions[:_QUICK_QUESTIONS]) for one in some]


def _asked(name: str, materials: list[Material], embedder: StaticEmbedder) -> list[list[Asked]]:
    """Of each memory its questions."""
    asked = []
    with progress_bar(f"{name}: indexing memories") as progress:
        for done, one in enumerate(materials, 1):
            asked.append(ask([one], embedder))
            progress(done, len(materials))
    return asked


# -- evidence -------------------------------------------------------------------------------------


def _judged(name: str, memories: Sequence[Sequence[Asked]], seed: int) -> dict[str, Any]:
    asked = list(itertools.chain.from_iterable(memories))
    values: dict[str, dict[str, list[float]]] = {}
    measures = measures_of(name)
    with progress_bar(f"{name}: ranking") as progress:
        methods = _methods()
        for done, (method, order_of) in enumerate(methods.items(), 1):
            found = [(one, order_of(one)) for one in asked]
            for measure, (judge, counts) in measures.items():
                kept = [judge(one, order) for one, order in found if counts(one)]
                values.setdefault(measure, {})[method] = kept
            progress(done, len(methods))
    judged: dict[str, Any] = {}
    for measure, by_method in values.items():
        plain, bm25 = by_method["plain"], by_method["bm25"]
        judged[measure] = {
            "bar": _BARS[name][measure],
            **{method: figure(kept, seed)._asdict() for method, kept in by_method.items()},
            **{
                f"{method}_above_{other}": difference(by_method[method], kept, seed)._asdict()
                for method in ("ranked", "shipped")
                for other, kept in (("plain", plain), ("bm25", bm25))
            },
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
        "plain": by(plain_sum),
        "bm25": by(plain_words),
        "cosine": by(lambda one: one.scan.meaning),
        "window": by(_newest),
    }


def _newest(one: Asked) -> Array:
    """The newest first; of one time, the last."""
    entries = one.index.entries
    order = np.lexsort((entries.seq, entries.source, entries.at_us))
    return np.argsort(order)


# -- through a store ------------------------------------------------------------------------------


def _stored(
    options: BenchOptions, name: str, materials: list[Material], memories: list[list[Asked]]
) -> dict[str, Any]:
    """How many questions get the same first hits from a store."""
    same = count = 0
    some = materials[: _STORED[name]]
    with (
        scratch(options) as home,
        memopt.open(home / "s", budget=_BUDGET, durability=Durability.OS) as memory,
        progress_bar(f"{name}: through a store") as progress,
    ):
        for number, (one, asked) in enumerate(zip(some, memories, strict=False), 1):
            scope = f"memory-{number}"
            write(memory, one.drafts, scope)
            for each in asked:
                count += 1
                wanted = expected_places(one, each)[:_LIMIT]
                same += recalled(memory, each.question, scope, limit=_LIMIT) == wanted
            progress(number, len(some))
    return {"memories": len(some), "questions": count, "same_first_ten": same}


def expected_places(material: Material, one: Asked) -> list[Place]:
    """Where `memory.recall` has to find what the shipped weights find in the index."""
    entries = one.index.entries
    place_of = {
        (draft.source, draft.seq): place
        for draft, place in zip(material.drafts, places_of(material.drafts), strict=True)
    }
    numbers = Ranker.shipped().rank_scan(one.scan, one.returnable).numbers
    return [place_of[int(entries.source[n]), int(entries.seq[n])] for n in numbers.tolist()]


# -- latency --------------------------------------------------------------------------------------


def _latency(options: BenchOptions, known: dict[str, list[Material]]) -> dict[str, Any]:
    materials = list(itertools.chain.from_iterable(known.values()))
    drafts = (draft for draft in drafts_of(materials) if len(draft.text) <= _SHORT_CHARS)
    questions = [question for one in known["locomo"] for question in one.questions]
    random.Random(options.seed).shuffle(questions)
    with (
        scratch(options) as home,
        memopt.open(home / "s", budget=_BUDGET, durability=Durability.OS) as memory,
    ):
        write(memory, itertools.islice(drafts, _ITEMS), "a")
        memory.compact()
        for question in questions[:_WARM]:
            recalled(memory, question, "a")
        resident, work = LatencyHistogram(), LatencyHistogram()
        for question in questions:
            begun_ns, begun_work_ns = time.perf_counter_ns(), time.thread_time_ns()
            recalled(memory, question, "a")
            work.add(time.thread_time_ns() - begun_work_ns)
            resident.add(time.perf_counter_ns() - begun_ns)
        faulted = []
        for question in questions[:_FAULTS]:
            memory._parts.recall.engine.scopes.clear()
            begun = time.perf_counter()
            recalled(memory, question, "a")
            faulted.append(time.perf_counter() - begun)
        entries = memory.recall("anything", scope="a").entries
    return {
        "entries": entries,
        "questions": resident.count,
        "resident_us": msgspec.to_builtins(resident.quantiles()),
        "resident_quickest_us": round(resident.quantile_us(0.01), 1),
        "resident_work_us": msgspec.to_builtins(work.quantiles()),
        "faulted_ms": round(median(faulted) * 1e3, 2),
        "bars_ms": _BARS_MS,
    }


if __name__ == "__main__":
    sys.exit(main("recall", __doc__))
