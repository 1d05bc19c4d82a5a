"""Models that run in this process: sentence-transformers, model2vec, and their like.

Owns: nothing but the model it was given or loaded. Invariant: one call of a model at a time, of
bounded texts; what is loaded is what is on disk, and nothing is fetched. Not here: what the model
occupies, which is its owner's to know.

The space of a model is a digest of its files, or of what it makes of a few sentences where it came
as an object: a name would stay the same when a model is trained on.
"""

import hashlib
import importlib
import inspect
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from memopt.base.errors import UsageError
from memopt.embedding.pieces import TEXT_CHARACTERS_MAX
from memopt.embedding.vectors import FIELD, checked_dimensions, checked_space, texts_of, unit

BATCH_TEXTS: Final = 64
_DIGEST_BYTES: Final = 6
_END_BYTES: Final = 1 << 16
"""A file is known by its size and by so much of its beginning and its end."""
_FILES_MAX: Final = 1000
_CONFIG_BYTES_MAX: Final = 1 << 20
_PROBES: Final = (
    "The train to the coast leaves at a quarter past nine.",
    "def total(prices): return sum(prices)",
    "My daughter is allergic to peanuts.",
    "Interest rates were raised again in March.",
    "Who painted the ceiling of the chapel?",
    "No refund was given, because the parcel had been opened.",
    "zebra",
    "42",
)


class LocalEmbedder:
    """A model with `encode(texts) -> (n, d)`. Thread-safe, one call at a time."""

    def __init__(
        self, model: Any, *, space: str | None = None, dimensions: int | None = None
    ) -> None:
        """Raises UsageError where it does not encode, or what it encodes to has no one shape."""
        self._encode = _encoder(model)
        self._lock = threading.Lock()
        self.dimensions = checked_dimensions(dimensions or self._told(model) or self._tried())
        self.space = checked_space(space or f"{_kind(model)}-{self.dimensions}-{self._digest()}")

    def embed(self, texts: Sequence[str]) -> Any:
        found = [text[:TEXT_CHARACTERS_MAX] for text in texts_of(texts)]
        vectors = np.empty((len(found), self.dimensions), np.float32)
        for start in range(0, len(found), BATCH_TEXTS):
            some = found[start : start + BATCH_TEXTS]
            with self._lock:
                made = self._encode(some)
            vectors[start : start + len(some)] = unit(
                made, count=len(some), dimensions=self.dimensions
            )
        return vectors

    @staticmethod
    def _told(model: Any) -> int | None:
        """What sentence-transformers and model2vec say of themselves."""
        for name in ("get_embedding_dimension", "get_sentence_embedding_dimension", "dim"):
            told = getattr(model, name, None)
            number = told() if callable(told) else told
            if number is not None:
                return checked_dimensions(number)
        return None

    def _tried(self) -> int:
        shape = np.shape(self._encode([_PROBES[0]]))
        if len(shape) != 2:
            raise UsageError(f"expected encode() to give (n, d), got {shape}", field=FIELD)
        return int(shape[1])

    def _digest(self) -> str:
        """Of the largest components: they stay the largest where another machine rounds
        otherwise."""
        places = np.abs(self.embed(_PROBES)).argmax(axis=1)
        return hashlib.blake2b(
            places.astype("<i8").tobytes(), digest_size=_DIGEST_BYTES
        ).hexdigest()


def load_model(path: str | Path) -> LocalEmbedder:
    """A model of sentence-transformers or model2vec from its directory.

    Raises UsageError where there is none, or the package that runs it is not installed.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise UsageError(f"there is no directory {directory}", field=FIELD)
    space = f"{directory.name[:64]}-{_files_digest(directory)}"
    if _is_model2vec(directory):
        kind = _imported("model2vec", "model2vec").StaticModel
        return LocalEmbedder(_loaded(kind.from_pretrained, directory), space=space)
    if not (directory / "modules.json").is_file():
        raise UsageError(
            f"{directory} is neither a model of sentence-transformers nor of model2vec", field=FIELD
        )
    kind = _imported("sentence_transformers", "sentence-transformers").SentenceTransformer
    return LocalEmbedder(_loaded(kind, directory, local_files_only=True), space=space)


def _loaded(load: Callable[..., Any], directory: Path, **options: Any) -> Any:
    try:
        return load(str(directory), **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(
            f"the model in {directory} cannot be loaded: {error}", field=FIELD
        ) from error


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"needs the package {package}: {error}", field=FIELD) from error


def _is_model2vec(directory: Path) -> bool:
    path = directory / "config.json"
    try:
        if path.stat().st_size > _CONFIG_BYTES_MAX:
            return False
        config = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and (
        config.get("model_type") == "model2vec" or "StaticModel" in config.get("architectures", ())
    )


def _files_digest(directory: Path) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    for path in files[:_FILES_MAX]:
        size_bytes = path.stat().st_size
        digest.update(f"{path.relative_to(directory).as_posix()}\0{size_bytes}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_END_BYTES))
            file.seek(max(0, size_bytes - _END_BYTES))
            digest.update(file.read(_END_BYTES))
    return digest.hexdigest()


def _encoder(model: Any) -> Callable[[list[str]], Any]:
    encode = getattr(model, "encode", None)
    if not callable(encode):
        raise UsageError(f"{type(model).__name__} has no encode()", field=FIELD)
    try:
        known = "show_progress_bar" in inspect.signature(encode).parameters
    except (TypeError, ValueError):
        known = False
    quiet = {"show_progress_bar": False} if known else {}
    return lambda texts: encode(texts, **quiet)


def _kind(model: Any) -> str:
    return type(model).__name__[:64]
