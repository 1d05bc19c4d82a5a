"""What `embedder=` means when a store is opened.

    None, "static"               the table that is shipped
    "off"                        no vectors: recall by words alone
    a path                       a table (a file), or a model of sentence-transformers or model2vec
                                 (a directory)
    "openai:MODEL"               OPENAI_BASE_URL or api.openai.com, with OPENAI_API_KEY
    "http://…/v1#MODEL"          any endpoint of that kind, with MEMOPT_EMBEDDER_KEY if there is one
    an object                    an Embedder, or a model with encode()

Owns: the meaning of those. Invariant: what is returned is an embedder whose answers are verified,
or None. Not here: the embedders. What others than the shipped one need is imported for the one that
is chosen.
"""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from memopt.base.errors import UsageError
from memopt.base.recall_protocols import Embedder
from memopt.embedding.static import StaticEmbedder

OFF: Final = "off"
STATIC: Final = "static"
_FIELD: Final = "embedder"
_OPENAI: Final = "openai:"
_OPENAI_URL: Final = "https://api.openai.com/v1"
_PIECES: Final = ("pieces", "pooled", "piece_vectors", "piece_weights", "charged_bytes")


def choose_embedder(choice: Any, *, environ: Mapping[str, str] | None = None) -> Embedder | None:
    """The embedder that is meant; None where none is wanted. Raises UsageError by name of the
    field `embedder`."""
    variables = os.environ if environ is None else environ
    if choice is None or (isinstance(choice, str) and choice == STATIC):
        return _shipped()
    if isinstance(choice, str):
        return _named(choice, variables)
    if isinstance(choice, os.PathLike):
        return _at(Path(choice))
    return _object(choice)


def embedder_maker(
    choice: Any, *, environ: Mapping[str, str] | None = None
) -> Callable[[], Embedder | None]:
    """What makes the embedder that is meant. The shipped table is opened when it is first needed;
    everything else now, so that what is wrong with it is said by whoever opens the store.

    What was made for the store, and has a `close`, is to be closed with it; an object that came
    from outside shows none.
    """
    if choice is None or (isinstance(choice, str) and choice in (STATIC, OFF)):
        return lambda: choose_embedder(choice)
    made = choose_embedder(choice, environ=environ)
    return lambda: made


@functools.cache
def _shipped() -> Embedder:
    """One for all stores of a process: it holds nothing of theirs."""
    return StaticEmbedder()


def _named(choice: str, variables: Mapping[str, str]) -> Embedder | None:
    if choice == OFF:
        return None
    if choice.startswith(_OPENAI):
        url = variables.get("OPENAI_BASE_URL") or _OPENAI_URL
        return _remote(url, choice.removeprefix(_OPENAI), variables.get("OPENAI_API_KEY"))
    if choice.startswith(("http://", "https://")):
        url, _, model = choice.partition("#")
        # Another's key than OpenAI's: that one is sent to OpenAI alone.
        return _remote(url, model, variables.get("MEMOPT_EMBEDDER_KEY"))
    return _at(Path(choice))


def _remote(url: str, model: str, key: str | None) -> Embedder:
    from memopt.embedding.remote import RemoteEmbedder

    return RemoteEmbedder(url, model, key=key)


def _at(path: Path) -> Embedder:
    if path.is_dir():
        from memopt.embedding.local import load_model

        return load_model(path)
    if path.is_file():
        return StaticEmbedder(path)
    raise UsageError(
        f'expected "static", "off", "openai:MODEL", a URL with #MODEL, a path or an object, '
        f"got {os.fspath(path)!r}, and there is no such file",
        field=_FIELD,
    )


def _object(choice: Any) -> Embedder:
    from memopt.embedding.local import LocalEmbedder
    from memopt.embedding.vectors import CheckedEmbedder, CheckedPieceEmbedder

    if isinstance(choice, StaticEmbedder | LocalEmbedder | CheckedEmbedder):
        return choice
    if callable(getattr(choice, "embed", None)):
        for name in ("space", "dimensions"):
            if not hasattr(choice, name):
                raise UsageError(f"{type(choice).__name__} has no {name}", field=_FIELD)
        if all(callable(getattr(choice, name, None)) for name in _PIECES):
            return CheckedPieceEmbedder(choice)
        return CheckedEmbedder(choice)
    if callable(getattr(choice, "encode", None)):
        return LocalEmbedder(choice)
    raise UsageError(
        f"expected a name, a path, an Embedder or a model with encode(), "
        f"got {type(choice).__name__}",
        field=_FIELD,
    )
