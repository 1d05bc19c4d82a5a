"""`memopt simulate` and `memopt replay --access-log`, as a person calls them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import run
from memopt.base.config import Config
from memopt.bench import command, curves, data, imports
from memopt.bench.simulation import policy_names
from memopt.cli.simulate import capacity_of


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = "".join(f"{n},key {n * n % 37},{100 + n * n % 37}\n" for n in range(600))
    path.write_text("time,key,size\n" + rows)
    return path


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    path = tmp_path / "trace.lis"
    path.write_text("".join(f"{n * n % 50} 2 0 {n}\n" for n in range(300)))
    return path


def test_a_simulation_is_a_table_with_every_policy(trace: Path) -> None:
    outcome = run("simulate", trace, "--no-libcachesim")
    assert outcome.code == 0, outcome.err
    assert "600 requests of" in outcome.out
    for name in (*policy_names(), "belady", "ceiling", "byte hit ratio", "requests/s"):
        assert name in outcome.out
    assert "NP-hard" in outcome.out


def test_keys_of_one_size_have_an_optimum_and_no_byte_hit_ratio(blocks: Path) -> None:
    outcome = run("simulate", blocks, "--no-libcachesim", "--policy", "sieve", "--capacity", "50%")
    assert outcome.code == 0, outcome.err
    assert "ceiling" not in outcome.out
    assert "byte hit ratio" not in outcome.out
    assert "50% = " in outcome.out
    assert "clock" not in outcome.out


def test_json_holds_every_figure(trace: Path, blocks: Path) -> None:
    outcome = run(
        "simulate", trace, blocks, "--json", "--no-libcachesim", "--capacity", "0.1",
        "--capacity", "1KiB", "--requests", 200, "--jobs", 1,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    first, second = json.loads(outcome.out)["simulations"]
    assert (first["format"], second["format"]) == ("csv", "arc")
    assert first["requests"] == second["requests"] == 200
    assert first["capacities_bytes"][1] == 1024
    assert first.keys() == second.keys() >= {
        "trace", "keys", "footprint_bytes", "uniform_bytes", "notes", "libcachesim", "seconds",
    }  # fmt: skip
    for simulation in (first, second):
        runs = [each for each in simulation["runs"] if each["kind"] == "policy"]
        assert {each["policy"] for each in runs} == set(policy_names())
        assert runs[0].keys() == {
            "policy", "kind", "capacity_bytes", "share", "hit_ratio", "byte_hit_ratio",
            "gap_closed", "requests_per_second", "policy_us", "policy_bytes_per_key", "note",
        }  # fmt: skip
        assert all(0 <= each["hit_ratio"] <= 1 for each in runs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--capacity", "no"), "--capacity"),
        (("--capacity", "150%"), "capacity"),
        (("--policy", "no"), "policy"),
        (("--plot", "x.doc"), "plot"),
        (("--block-bytes", "no"), "--block-bytes"),
        (("--budget", "64MiB"), "--budget: goes with --plan"),
        (("--l1-share", "0.5"), "--l1-share: goes with --plan"),
        (("--plan",), "--budget"),
        (("--plan", "--budget", "1KiB"), "budget_bytes"),
        (("--plan", "--budget", "64MiB", "--capacity", "5%"), "--capacity: does not go"),
        (("--plan", "--budget", "64MiB", "--policy", "fifo"), "policy"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else None,
)
def test_a_wrong_call_is_one_line(trace: Path, arguments: tuple[str, ...], said: str) -> None:
    outcome = run("simulate", trace, *arguments)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert said in outcome.err
    assert outcome.out == ""


def test_a_bad_line_is_named_and_escaped(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("key,size\na,1\nb,\x1b[31m\n")
    outcome = run("simulate", path)
    assert outcome.code == 2
    assert "bad.csv:3" in outcome.err
    assert "\x1b" not in outcome.err


# Importing matplotlib warns, with a newer pyparsing than it was made for.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_curves_and_json_are_saved(trace: Path, blocks: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    plot = tmp_path / "curves.svg"
    outcome = run("simulate", trace, blocks, "--no-libcachesim", "--out", out, "--plot", plot)
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in out.iterdir()) == [
        "simulate-1.png", "simulate-2.png", "simulate.json",
    ]  # fmt: skip
    assert len(json.loads((out / "simulate.json").read_text())["simulations"]) == 2
    assert "<svg" in plot.read_text()


def test_without_matplotlib_a_plot_is_refused_at_once_and_out_does_without(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "has_matplotlib", lambda: False)
    outcome = run("simulate", trace, "--plot", tmp_path / "curves.png")
    assert outcome.code == 2
    assert "pip install matplotlib" in outcome.err
    outcome = run("simulate", trace, "--no-libcachesim", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["simulate.json"]


def test_a_plan_is_a_sentence_a_table_and_settings(trace: Path, tmp_path: Path) -> None:
    arguments = ("simulate", trace, "--plan", "--budget", "8MiB", "--l1-share", "1")
    outcome = run(*arguments, "--others", "8380000", "--costs", 1, 2, 30, "--compression", 2)
    assert outcome.code == 0, outcome.err
    assert "a budget of 8.0 MiB: use policy" in outcome.out.splitlines()[0]
    assert "an access costs 1 µs in L1, 2 in L2, 30 in L3" in outcome.out
    file = tmp_path / "memopt.toml"
    file.write_text(outcome.out[outcome.out.index("budget_bytes =") :])
    assert Config.load(file, environ={}).budget_bytes == 8 << 20
    found = run(*arguments, "--json", "--out", tmp_path / "out")
    (plan,) = json.loads(found.out)["plans"]
    assert plan["best"] == plan["tried"][0]
    assert {each["l1_share"] for each in plan["tried"]} == {0.5, 1.0}
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["plans"] == [plan]


def test_capacities_are_shares_or_bytes() -> None:
    assert capacity_of("5%") == 0.05
    assert capacity_of(" 0.25 ") == 0.25
    assert capacity_of(".5") == 0.5
    for text, size in (("64MiB", 64 << 20), ("1024", 1024), ("1.5KiB", 1536)):
        assert capacity_of(text) == size
        assert isinstance(capacity_of(text), int)


def test_a_replay_is_recorded_and_simulated(tmp_path: Path) -> None:
    log = tmp_path / "accesses"
    played = run(
        "replay", data.SAMPLE, "--sessions", 200, "--budget", "16MiB", "--no-baseline",
        "--access-log", log, "--seal", "always", "--json",
    )  # fmt: skip
    assert played.code == 0, played.err
    assert json.loads(played.out)["mismatches"] == 0
    outcome = run("simulate", log, "--json", "--no-libcachesim", "--capacity", "50%")
    assert outcome.code == 0, outcome.err
    (simulation,) = json.loads(outcome.out)["simulations"]
    assert simulation["format"] == "memopt"
    assert simulation["requests"] > 50
    # Reading all back to compare is not recorded: then each of the last pages would be there.
    assert simulation["keys"] < json.loads(played.out)["messages"]


def test_where_nothing_can_be_saved_nothing_is_begun(
    trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for plan in ((), ("--plan", "--budget", "8MiB")):
        outcome = run("simulate", trace, *plan, "--out", trace)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    monkeypatch.setattr(imports, "run", lambda _: pytest.fail("it was begun"))
    assert command.main("imports", None, ["--out", str(trace)]) == 1


def test_other_commands_need_nothing_that_draws() -> None:
    script = "import sys, memopt.cli.app; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
