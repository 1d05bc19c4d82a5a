"""Orders of return are those of the traces, numbered from 0 as sessions appear."""

import gzip
from pathlib import Path

import msgspec
import pytest

from memopt.bench import returns


def trace(path: Path, name: str, lines: list[object]) -> None:
    target = path / "kv_traces" / name
    target.parent.mkdir(exist_ok=True)
    with gzip.open(target, "wb") as file:
        file.writelines(msgspec.json.encode(line) + b"\n" for line in lines)


def test_a_request_goes_on_with_the_conversation_whose_last_full_block_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMOPT_DATA", str(tmp_path))
    shared = [1, 2, 3, 4]
    blocks = [[10, 11, 12], [20, 21], [10, 11, 13, 14], [30], [20, 22], [10, 11, 13, 15, 16]]
    name = "mooncake_conversation_trace.jsonl.gz"
    trace(tmp_path, name, [{"hash_ids": shared + own} for own in blocks])
    assert returns.mooncake(100).order == (0, 1, 0, 2, 1, 0)
    assert returns.mooncake(3).order == (0, 1, 0)


def test_coding_sessions_overlap_by_their_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMOPT_DATA", str(tmp_path))
    lines = [{"requests": [{"t": t} for t in times]} for times in ([0, 100, 300], [0, 5])]
    trace(tmp_path, "coding_agent_sessions.jsonl.gz", lines)
    found = returns.coding_agents(1000)
    assert found.sessions == 32
    assert len(found.order) == 16 * 5
    assert found.order[0] == 0
    assert found.order[:30].count(1) == 2


def test_without_traces_a_draw_stands_in_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMOPT_DATA", str(tmp_path))
    for found in (returns.mooncake(50), returns.coding_agents(50)):
        assert found.name == "zipf"
        assert len(found.order) == 50
        assert sorted(set(found.order)) == list(range(found.sessions))


def test_a_rota_repeats_the_order_of_each_scope() -> None:
    order = returns.rota(400, scopes=3, each=4).order
    for scope in range(3):
        own = [session for session in order if session // 4 == scope]
        assert own[4:] == own[:-4]
        assert sorted(own[:4]) == list(range(scope * 4, scope * 4 + 4))
