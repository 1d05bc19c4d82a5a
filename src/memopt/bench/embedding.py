"""Question: what does the default embedder cost, beside cutting the texts with a bare tokenizer?

Method: every different text of the conversations in slices of about 90 word pieces, embedded in
batches of 64; each system in a process of its own, rounds interleaved; texts by second of CPU time,
so that neither other processes nor a second core count, and RSS growth from before the embedder
is imported until all is embedded. One pass, from a memory of words that is empty.
Baselines: the `tokenizers` library with the same vocabulary, which makes no vectors, and our own
cutting alone. Without the library the ratio is left out, with a line.
Not measured: how well the vectors serve (recall), and reading the file from a cold disk.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from memopt.bench import data
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.measure import RssMeter, machine, median

_BATCH: Final = 64
_SLICE_CHARACTERS: Final = 330
_LIBRARY: Final = "tokenizers"
_SYSTEMS: Final = ("static", "pieces", _LIBRARY)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    system: str
    files: tuple[str, ...]
    texts_max: int


def run(options: BenchOptions) -> dict[str, Any]:
    """Figures by system, medians over the rounds, and ratios to the library."""
    rounds = 1 if options.quick else 5
    files = tuple(str(path) for path in options.files or (data.trajectories(),))
    systems = [name for name in _SYSTEMS if name != _LIBRARY or _has_library()]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
    with progress_bar("embedding") as progress:
        for number in range(rounds):
            turned = number % len(systems)
            for name in systems[turned:] + systems[:turned]:
                progress(sum(map(len, found.values())), rounds * len(systems))
                task = Task(system=name, files=files, texts_max=200 if options.quick else 12_000)
                found[name].append(run_in_child(measure, task))
    figures = {
        name: {field: median(answer[field] for answer in answers) for field in answers[0]}
        for name, answers in found.items()
    }
    with scratch(options) as home:
        result = {"rounds": rounds, "systems": figures, "machine": machine(home)}
    if _LIBRARY in found:
        result["texts_per_second_ratio"] = {
            name: round(
                median(
                    ours["texts_per_second"] / theirs["texts_per_second"]
                    for ours, theirs in zip(found[name], found[_LIBRARY], strict=True)
                ),
                2,
            )
            for name in systems
            if name != _LIBRARY
        }
    return result


def measure(argument: Any, _report: Report) -> Any:
    """Child: one pass over the texts."""
    task = msgspec.convert(argument, Task)
    texts = sliced(task.files, task.texts_max)
    import numpy  # noqa: F401 - what every user of arrays has is not the embedder's

    meter = RssMeter()
    begun = time.perf_counter()
    work = _worker(task.system)
    work(["a"])
    first_seconds = time.perf_counter() - begun
    begun_cpu = time.process_time()
    pieces = sum(work(texts[at : at + _BATCH]) for at in range(0, len(texts), _BATCH))
    seconds = time.process_time() - begun_cpu
    return {
        "texts": len(texts),
        "pieces_per_text": round(pieces / len(texts), 1),
        "texts_per_second": round(len(texts) / seconds, 1),
        "first_text_seconds": round(first_seconds, 4),
        "rss_growth_bytes": meter.growth_bytes,
        "rss_growth_bytes_max": meter.growth_bytes_max,
    }


def sliced(files: Iterable[str], texts_max: int) -> list[str]:
    """Different texts, in slices."""
    found: dict[str, None] = {}
    for conversation in data.load(files):
        for message in conversation:
            for text in _texts(message):
                for at in range(0, len(text), _SLICE_CHARACTERS):
                    if len(text) - at >= _SLICE_CHARACTERS // 2:
                        found[text[at : at + _SLICE_CHARACTERS]] = None
        if len(found) >= texts_max:
            break
    return list(found)[:texts_max]


def _texts(message: Any) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, str):
        yield content


def _worker(system: str) -> Callable[[list[str]], int]:
    """What embeds or cuts a batch, and says how many pieces there were."""
    if system == _LIBRARY:
        return _library()
    from memopt.embedding.static import StaticEmbedder

    embedder = StaticEmbedder()
    if system == "pieces":
        return lambda texts: len(embedder.pieces(texts)[0])

    def embed(texts: list[str]) -> int:
        pieces, starts = embedder.pieces(texts)
        embedder.pooled(pieces, starts)
        return len(pieces)

    return embed


def _library() -> Callable[[list[str]], int]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers

    from memopt.embedding.pieces import UNKNOWN
    from memopt.embedding.static import SHIPPED, open_table

    numbers = {piece: number for number, piece in enumerate(open_table(SHIPPED).vocabulary)}
    whole = tokenizers.Tokenizer(tokenizers.models.WordPiece(numbers, unk_token=UNKNOWN))
    whole.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    whole.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()

    def cut(texts: list[str]) -> int:
        found = whole.encode_batch_fast(texts, add_special_tokens=False)
        return sum(len(each.ids) for each in found)

    return cut


def _has_library() -> bool:
    if importlib.util.find_spec(_LIBRARY) is not None:
        return True
    say(f"embedding: no ratio, {_LIBRARY} is not installed")
    return False


if __name__ == "__main__":
    sys.exit(main("embedding", __doc__))
