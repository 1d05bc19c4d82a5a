"""The tree of errors is the one that is drawn."""

import inspect
import re

import pytest

import memopt.base.errors as errors
from memopt.base.errors import (
    BackpressureError,
    BudgetError,
    CapacityError,
    ConflictError,
    CorruptionError,
    MemoptError,
    NotFoundError,
    StoreError,
    StoreLockedError,
    UsageError,
)

DRAWN = re.compile(r"^(?P<branches>[│├└─ ]*)(?P<name>[A-Z]\w+Error)\b")


def drawn_tree() -> dict[str, str | None]:
    """Name to parent, from the drawing: four columns are one level."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = DRAWN.match(line)
        if found is None:
            continue
        level = len(found["branches"]) // 4
        assert level <= len(path), f"{found['name']} is drawn below nothing"
        del path[level:]
        parents[found["name"]] = path[-1] if path else None
        path.append(found["name"])
    return parents


def coded_tree() -> dict[str, str | None]:
    classes = {
        name: error
        for name, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, BaseException) and error.__module__ == errors.__name__
    }
    return {
        name: error.__base__.__name__
        if error.__base__ is not None and error.__base__ in classes.values()
        else None
        for name, error in classes.items()
    }


def test_the_tree_that_is_drawn_is_the_tree_in_the_code() -> None:
    assert drawn_tree() == coded_tree()
    assert len(drawn_tree()) >= 15
    assert [name for name, parent in drawn_tree().items() if parent is None] == ["MemoptError"]


def test_every_error_says_what_it_is() -> None:
    for name in coded_tree():
        assert inspect.getdoc(getattr(errors, name)), name


@pytest.mark.parametrize(
    ("error", "builtin"), [(UsageError("no"), ValueError), (NotFoundError("no"), LookupError)]
)
def test_python_s_own_words_catch_them_too(error: MemoptError, builtin: type[Exception]) -> None:
    assert isinstance(error, builtin)


def test_a_usage_error_names_the_path_of_the_field() -> None:
    error = UsageError("expected a string, got 5", field="message.content[2].text")
    assert str(error) == "message.content[2].text: expected a string, got 5"
    assert error.field == "message.content[2].text"
    assert error.reason == "expected a string, got 5"
    assert str(UsageError("no")) == "no"


def test_a_capacity_error_says_when_to_come_back() -> None:
    error = BackpressureError("4096 calls wait", limit="commit queue", retry_after_seconds=0.25)
    assert isinstance(error, CapacityError)
    assert str(error) == "4096 calls wait (limit: commit queue; retry after 0.25 s)"
    assert (error.limit, error.retry_after_seconds) == ("commit queue", 0.25)
    assert error.wanted_bytes is None
    full = BudgetError("no room", limit="budget", wanted_bytes=5, limit_bytes=3)
    assert (full.wanted_bytes, full.limit_bytes, full.retry_after_seconds) == (5, 3, 1.0)


def test_a_conflict_says_what_was_expected_and_what_is_there() -> None:
    error = ConflictError("head moved", expected=3, actual=5)
    assert str(error) == "head moved: expected 3, found 5"
    assert (error.expected, error.actual) == (3, 5)


def test_a_corruption_names_its_session() -> None:
    error = CorruptionError("page 7 is damaged", scope="acme/user-4", session="s")
    assert str(error) == "page 7 is damaged in session 's' of scope 'acme/user-4'"
    assert (error.scope, error.session) == ("acme/user-4", "s")
    assert str(CorruptionError("the log is damaged")) == "the log is damaged"


def test_a_locked_store_names_its_owner() -> None:
    error = StoreLockedError("in use", owner="pid 12 on box")
    assert isinstance(error, StoreError)
    assert error.owner == "pid 12 on box"
