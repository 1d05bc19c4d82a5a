"""What memories of other projects find, how soon, and in how much RAM: the peers of bench recall.

Each gets LoCoMo's turns one by one, a dialogue a scope, and is asked the same questions, in a fresh
process and with memopt's own embedder. memopt answers each question with weights that were fitted
without its dialogue, as `ranked` of bench recall; `bm25` is plain BM25 over the same turns, for
what they find. LangGraph's store keeps an item a turn in RAM and loses it with the process; mem0
with `infer=False` keeps a point a turn in Qdrant's local mode, as it does by default, here without
its optional BM25; memopt appends messages with `durability="os"`. Speakers are said where a peer
has a place for them. Time is that of `add` and `search` alone. memopt indexes what it was given at
a seal, or at the next search: so look at the sum of all, `seconds`, and at the 99th percentile,
too. Resident sets are those of the process once everything is added and asked, less what it had
with its libraries and the embedder loaded. Not here: other sets, evidence within tokens (recall).
"""

import importlib.util
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np

import memopt
from memopt.base.records import Durability, to_datetime
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, progress_bar, say, scratch
from memopt.bench.measure import LatencyHistogram, RssMeter
from memopt.bench.questions import Material
from memopt.bench.recall_memory import message_of, places_of
from memopt.embedding.static import StaticEmbedder
from memopt.recall.entries import Draft, Entries
from memopt.recall.index import ScopeIndex
from memopt.recall.ranking import Ranker
from memopt.recall.weights import read_several
from memopt.text.analysis import Analyser

_QUESTIONS: Final = 250
_LIMIT: Final = 10
_BUDGET: Final = "256MiB"
_NEEDS: Final = {"memopt": "memopt", "bm25": "memopt", "langgraph": "langgraph", "mem0": "mem0"}
"""The package of each."""


class Turn(msgspec.Struct, frozen=True):
    scope: str
    key: str
    """Of its place in the dialogue."""
    text: str
    speaker: str | None
    at_us: int


class PeerQuestion(msgspec.Struct, frozen=True):
    scope: str
    text: str
    gold: tuple[str, ...]
    now_us: int
    fold: int
    """By whose weights it is asked: none of its dialogue is in them."""


class PeerTask(msgspec.Struct, frozen=True, kw_only=True):
    peer: str
    home: str
    turns: tuple[Turn, ...]
    questions: tuple[PeerQuestion, ...]
    weights: str
    """The file of the folds' weights."""


class Peer(Protocol):
    def add(self, turn: Turn) -> None: ...

    def search(self, question: PeerQuestion) -> list[str]:
        """Keys of the best turns, at most ten."""

    def close(self) -> None: ...


def peers(options: BenchOptions, materials: Sequence[Material], weights: Path) -> dict[str, Any]:
    """Each peer's figures; those that are not installed are left out, and said."""
    turns, questions = _asked_of(materials, options.seed)
    figures: dict[str, Any] = {}
    with progress_bar("peers") as progress:
        for done, (peer, package) in enumerate(_NEEDS.items(), 1):
            if importlib.util.find_spec(package) is None:
                say(f"{peer} is skipped: it is not installed (pip install 'memopt[bench]')")
                continue
            with scratch(options) as home:
                task = PeerTask(
                    peer=peer, home=str(home), turns=turns, questions=questions,
                    weights=str(weights),
                )  # fmt: skip
                figures[peer] = run_in_child(measure_peer, msgspec.to_builtins(task))
            progress(done, len(_NEEDS))
    return figures


def measure_peer(argument: dict[str, Any], report: Report) -> dict[str, Any]:
    """One peer, in this process."""
    task = msgspec.convert(argument, PeerTask)
    embedder = StaticEmbedder()
    embedder.embed(["everything is brought in"])
    peer = _PEERS[task.peer](Path(task.home), embedder, Path(task.weights))
    meter = RssMeter()
    added, searched = LatencyHistogram(), LatencyHistogram()
    for turn in task.turns:
        begun_ns = time.perf_counter_ns()
        peer.add(turn)
        added.add(time.perf_counter_ns() - begun_ns)
    found = []
    for question in task.questions:
        begun_ns = time.perf_counter_ns()
        keys = peer.search(question)
        searched.add(time.perf_counter_ns() - begun_ns)
        found.append(len(set(keys) & set(question.gold)) / len(question.gold))
    growth_bytes = meter.growth_bytes
    peer.close()
    return {
        "turns": added.count,
        "questions": searched.count,
        "add_us": msgspec.to_builtins(added.quantiles()),
        "search_us": msgspec.to_builtins(searched.quantiles()),
        "seconds": round(added.seconds + searched.seconds, 3),
        "evidence_at_10": round(sum(found) / len(found), 4),
        "rss_growth_mib": round(growth_bytes / 2**20, 1),
    }


class MemoptPeer:
    def __init__(self, home: Path, embedder: StaticEmbedder, weights: Path) -> None:
        self._memory = memopt.open(
            home / "s", budget=_BUDGET, durability=Durability.OS, embedder=embedder
        )
        self._rankers = [Ranker(one) for one in read_several(weights)]

    def add(self, turn: Turn) -> None:
        source = turn.key.partition("/")[0]
        draft = Draft(source=0, seq=0, at_us=0, text=turn.text, speaker=turn.speaker)
        session = self._memory.session(source, scope=turn.scope)
        session.append(message_of(draft), at=to_datetime(turn.at_us))

    def search(self, question: PeerQuestion) -> list[str]:
        self._memory._parts.recall.engine.use_ranker(self._rankers[question.fold])
        hits = self._memory.recall(
            question.text, scope=question.scope, limit=_LIMIT, now=to_datetime(question.now_us)
        )
        return [f"{hit.spans[0].session}/{hit.spans[0].start}" for hit in hits]

    def close(self) -> None:
        self._memory.close()


class Bm25Peer:
    def __init__(self, home: Path, embedder: StaticEmbedder, weights: Path) -> None:
        self._analyser = Analyser()
        self._turns: dict[str, list[Turn]] = {}
        self._indexes: dict[str, ScopeIndex] = {}

    def add(self, turn: Turn) -> None:
        self._turns.setdefault(turn.scope, []).append(turn)

    def search(self, question: PeerQuestion) -> list[str]:
        turns = self._turns[question.scope]
        if question.scope not in self._indexes:
            drafts = [
                Draft(source=number, seq=0, at_us=0, text=turn.text)
                for number, turn in enumerate(turns)
            ]
            entries = Entries.of(drafts, embedder=None, analyser=self._analyser)
            self._indexes[question.scope] = ScopeIndex.of([entries])
        terms = sorted({*self._analyser.analyse(question.text).terms})
        sums = self._indexes[question.scope].weigh(terms).parts.sum(0)[:-1]
        return [turns[at].key for at in np.argsort(-sums, kind="stable")[:_LIMIT]]

    def close(self) -> None:
        pass


class LangGraphPeer:
    def __init__(self, home: Path, embedder: StaticEmbedder, weights: Path) -> None:
        from langgraph.store.memory import InMemoryStore

        def embed(texts: Sequence[str]) -> list[list[float]]:
            vectors: list[list[float]] = embedder.embed(list(texts)).tolist()
            return vectors

        self._store = InMemoryStore(
            index={"dims": embedder.dimensions, "embed": embed, "fields": ["text"]}
        )

    def add(self, turn: Turn) -> None:
        self._store.put((turn.scope,), turn.key, {"text": turn.text, "speaker": turn.speaker})

    def search(self, question: PeerQuestion) -> list[str]:
        found = self._store.search((question.scope,), query=question.text, limit=_LIMIT)
        return [item.key for item in found]

    def close(self) -> None:
        pass


class _Mem0Embedder:
    """The shape that mem0 asks its embedders for."""

    def __init__(self, embedder: StaticEmbedder) -> None:
        self._embedder = embedder

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        vector: list[float] = self._embedder.embed([text])[0].tolist()
        return vector

    def embed_batch(self, texts: list[str], memory_action: str | None = None) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.embed(texts).tolist()
        return vectors


class Mem0Peer:
    def __init__(self, home: Path, embedder: StaticEmbedder, weights: Path) -> None:
        # Read when it is imported.
        os.environ.update(MEM0_TELEMETRY="False", MEM0_DIR=str(home))
        from mem0 import Memory

        # Neither model is called: nothing is inferred, and the embedder is put in below.
        unused = {"provider": "openai", "config": {"api_key": "unused"}}
        store = {
            "collection_name": "turns", "path": str(home / "qdrant"), "on_disk": True,
            "embedding_model_dims": embedder.dimensions,
        }  # fmt: skip
        self._memory = Memory.from_config(
            {
                "embedder": unused,
                "llm": unused,
                "vector_store": {"provider": "qdrant", "config": store},
                "history_db_path": str(home / "history.db"),
            }
        )
        self._memory.embedding_model = _Mem0Embedder(embedder)

    def add(self, turn: Turn) -> None:
        message = {"role": "user", "content": turn.text}
        if turn.speaker is not None:
            message["name"] = turn.speaker
        self._memory.add([message], user_id=turn.scope, infer=False, metadata={"key": turn.key})

    def search(self, question: PeerQuestion) -> list[str]:
        found = self._memory.search(
            question.text, filters={"user_id": question.scope}, top_k=_LIMIT, threshold=0.0
        )
        return [item["metadata"]["key"] for item in found["results"]]

    def close(self) -> None:
        self._memory.vector_store.client.close()


_PEERS: Final[dict[str, Any]] = {
    "memopt": MemoptPeer, "bm25": Bm25Peer, "langgraph": LangGraphPeer, "mem0": Mem0Peer,
}  # fmt: skip


def _asked_of(
    materials: Sequence[Material], seed: int
) -> tuple[tuple[Turn, ...], tuple[PeerQuestion, ...]]:
    turns: list[Turn] = []
    questions: list[PeerQuestion] = []
    for number, one in enumerate(materials):
        scope = f"dialogue-{number}"
        keys = [f"{source}/{place}" for source, place in places_of(one.drafts)]
        turns += [
            Turn(scope, key, draft.text, draft.speaker, draft.at_us)
            for key, draft in zip(keys, one.drafts, strict=True)
        ]
        questions += [
            PeerQuestion(scope, q.text, tuple(keys[at] for at in q.gold), q.now_us, one.fold)
            for q in one.questions
        ]
    random.Random(seed).shuffle(questions)
    return tuple(turns), tuple(questions[:_QUESTIONS])
