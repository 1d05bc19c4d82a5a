"""Next door or here, the same dictionary; and nobody waits for a neighbour that never answers."""

import logging
import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from memopt.codecs import dictionaries, training
from memopt.paging.dictionaries import _TRAINING_FACTOR, _TRAINING_LEAST

CHANCE = random.Random(3)
COMMON = [
    " ".join(CHANCE.choices(["alpha", "beta", "gamma", "delta", "omega"], k=60)) for _ in range(40)
]
SAMPLES = [
    (scope, " | ".join([*CHANCE.sample(COMMON, 8), f"user {scope}"]).encode() * 2)
    for scope in range(12)
    for _ in range(30)
]


@pytest.fixture(autouse=True)
def next_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_LITTLE_BYTES", 0)


def learnt(**arguments: Any) -> bytes | None:
    return training.train_dictionary(SAMPLES, size_bytes=4096, scopes_min=5, **arguments)


def here() -> bytes | None:
    return dictionaries.train_dictionary(SAMPLES, size_bytes=4096, scopes_min=5)


def test_next_door_learns_what_would_be_learnt_here(caplog: pytest.LogCaptureFixture) -> None:
    assert here()
    assert learnt() == here()
    assert not caplog.records


def test_a_path_that_only_this_process_knows_goes_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "path", ["relative", tmp_path, *sys.path])
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    assert learnt() == here()
    assert not caplog.records


@pytest.mark.parametrize("script", ["exit 3", "echo nonsense", "kill -9 $$", "cat > /dev/null"])
def test_what_does_not_work_next_door_is_done_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, script: str
) -> None:
    false = tmp_path / "python"
    false.write_text(f"#!/bin/sh\n{script}\n")
    false.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(false))
    with caplog.at_level(logging.WARNING):
        assert learnt() == here()
    assert "next door failed" in caplog.text


@pytest.mark.parametrize("frozen", [True, False])
def test_an_application_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, frozen: bool
) -> None:
    if frozen:
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "agent.exe"))

    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be started")

    monkeypatch.setattr(subprocess, "Popen", start)
    assert learnt() == here()


def test_nobody_waits_for_what_is_no_longer_wanted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(slow))
    started = time.monotonic()
    assert learnt(is_wanted=lambda: time.monotonic() < started + 0.3) is None
    assert time.monotonic() < started + 20


def test_what_is_learnt_here_is_little_and_takes_what_is_reserved_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    asked: list[int] = []
    monkeypatch.setattr(training, "_ask", lambda request, is_wanted: asked.append(len(request)))
    little = [*SAMPLES]
    while sum(len(raw) for _, raw in little) >= training._LITTLE_BYTES:
        del little[::2]
    size = sum(len(raw) for _, raw in little)
    training.train_dictionary(little[:6], size_bytes=4096, scopes_min=5)
    tracemalloc.start()
    try:
        assert training.train_dictionary(little, size_bytes=4096, scopes_min=5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not asked
    assert peak <= max(_TRAINING_FACTOR * size, _TRAINING_LEAST)
    training.train_dictionary(SAMPLES, size_bytes=4096, scopes_min=5)
    assert asked, "more than a little is learnt next door, whatever is loaded here"
