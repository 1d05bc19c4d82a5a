"""The answer cache beside GPTCache: one stream of questions, the same embedder, processes apart.

Owns: how each of them is asked. Invariant: both get the same questions in the same order, embed
them in their own time, and are judged alike. Not here: the other figures (answers.py).

GPTCache keeps answers in SQLite and vectors in faiss, as its documentation does, and is told not to
report to anybody. Its similarity is by distance, with its own evaluation.
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from memopt.answers.matching import Matcher, pack_matcher
from memopt.bench.answer_data import Asking
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import say
from memopt.bench.measure import LatencyHistogram, RssMeter
from memopt.embedding.static import StaticEmbedder

PEER: Final = "gptcache"
_THRESHOLD: Final = 0.8
"""GPTCache's own."""
_DISTANCE_MAX: Final = 4.0
"""What it takes for the largest distance."""
_SCOPE: Final = "acme/answers"

Get = Callable[[str, int], str | None]
Put = Callable[[str, str], None]


class Task(msgspec.Struct, frozen=True, kw_only=True):
    system: str
    home: str
    askings: tuple[tuple[str, str, int], ...]
    """Question, intent, and which matcher does not know it."""
    matchers: tuple[str, ...]
    threshold: float


def peers(
    home: Path, askings: Sequence[Asking], folds: Sequence[int], matchers: Sequence[Matcher],
    hit_ratio: float, embedder: StaticEmbedder,
) -> dict[str, Any]:  # fmt: skip
    """Figures by system. `folds`: the matcher of each question."""
    files = [home / f"matcher{number}.bin" for number in range(len(matchers))]
    for file, matcher in zip(files, matchers, strict=True):
        file.write_bytes(pack_matcher(matcher))
    stream = tuple((*asking, fold) for asking, fold in zip(askings, folds, strict=True))
    systems = [("memopt", 0.0)]
    if all(importlib.util.find_spec(name) for name in (PEER, "faiss", "sqlalchemy")):
        as_much = _threshold(askings, hit_ratio, embedder)
        systems += [(PEER, _THRESHOLD), (f"{PEER}_serving_as_much", as_much)]
    else:
        say("gptcache, faiss or sqlalchemy is not installed: no comparison with it")
    found = {}
    for name, threshold in systems:
        with tempfile.TemporaryDirectory(dir=home) as directory:
            task = Task(
                system=name, home=directory, askings=stream, matchers=tuple(map(str, files)),
                threshold=threshold,
            )  # fmt: skip
            found[name] = run_in_child(measure, task)
    return found


def _threshold(askings: Sequence[Asking], hit_ratio: float, embedder: StaticEmbedder) -> float:
    """Where the nearest question alone decides, this similarity serves that share of the same
    stream: the peer knows what we do not."""
    vectors = embedder.embed([asking.question for asking in askings])
    low, high = 0.0, 1.0
    for _ in range(9):
        middle = (low + high) / 2
        held: list[int] = []
        kept = np.empty_like(vectors)
        for number, vector in enumerate(vectors):
            if held:
                cosine = float((kept[: len(held)] @ vector).max())
                if _DISTANCE_MAX - (2 - 2 * cosine) >= _DISTANCE_MAX * middle:
                    continue
            kept[len(held)] = vector
            held.append(number)
        served = 1 - len(held) / len(vectors)
        low, high = (middle, high) if served > hit_ratio else (low, middle)
    return (low + high) / 2


def measure(argument: Any, _report: Report) -> Any:
    """Child: the stream through one system."""
    task = msgspec.convert(argument, Task)
    embedder = StaticEmbedder()
    embedder.embed(["so that it is there"])
    meter = RssMeter()
    begin = _gptcache if task.system.startswith(PEER) else _memopt
    get, put = begin(task, embedder)
    searches, adds = LatencyHistogram(), LatencyHistogram()
    served = wrong = 0
    for question, intent, fold in task.askings:
        started = time.perf_counter_ns()
        found = get(question, fold)
        searches.add(time.perf_counter_ns() - started)
        if found is not None:
            served += 1
            wrong += found != intent
            continue
        started = time.perf_counter_ns()
        put(question, intent)
        adds.add(time.perf_counter_ns() - started)
    return {
        "asked": len(task.askings),
        "hit_ratio": round(served / len(task.askings), 4),
        "wrong_per_hit": round(wrong / max(1, served), 4),
        "search_us": msgspec.to_builtins(searches.quantiles()),
        "add_us": msgspec.to_builtins(adds.quantiles()),
        "rss_growth_bytes": meter.growth_bytes,
        "rss_growth_bytes_max": meter.growth_bytes_max,
        "threshold": round(task.threshold, 4),
    }


def _memopt(task: Task, embedder: StaticEmbedder) -> tuple[Get, Put]:
    from memopt.answers.matching import open_matcher
    from memopt.base.answer_records import Answer
    from memopt.wiring import open_memory

    memory = open_memory(
        Path(task.home), budget="64MiB", durability="os", embedder=embedder, probe_seconds=0
    )
    matchers = [open_matcher(Path(file)) for file in task.matchers]

    def get(question: str, fold: int) -> str | None:
        memory._parts.answers.use_matcher(matchers[fold])
        found = memory.answers.lookup(question, scope=_SCOPE)
        return found.response if isinstance(found, Answer) else None

    def put(question: str, intent: str) -> None:
        memory.answers.store(question, intent, scope=_SCOPE)

    return get, put


def _gptcache(task: Task, embedder: StaticEmbedder) -> tuple[Get, Put]:
    import gptcache
    from gptcache.adapter import api
    from gptcache.manager import manager_factory
    from gptcache.processor.pre import get_prompt
    from gptcache.similarity_evaluation.distance import SearchDistanceEvaluation

    cache = gptcache.Cache()
    cache.init(
        pre_embedding_func=get_prompt,
        embedding_func=lambda text, **_: embedder.embed([text])[0],
        data_manager=manager_factory(
            "sqlite,faiss", data_dir=task.home,
            vector_params={"dimension": embedder.dimensions},
            # Of itself it lets the oldest go beyond a thousand.
            eviction_params={"max_size": len(task.askings) + 1},
        ),
        similarity_evaluation=SearchDistanceEvaluation(),
        config=gptcache.Config(similarity_threshold=task.threshold, disable_report=True),
    )  # fmt: skip

    def get(question: str, fold: int) -> str | None:
        found = api.get(question, cache_obj=cache)
        return None if found is None else str(found)

    def put(question: str, intent: str) -> None:
        api.put(question, intent, cache_obj=cache)

    return get, put
