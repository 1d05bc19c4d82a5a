"""The model of the tiers does what the pager does, and the search finds what there is to find."""

import random
import tomllib
from array import array
from pathlib import Path

import numpy as np
import pytest

import memopt
from memopt.base.budget import Budget
from memopt.base.clock import ManualClock
from memopt.base.config import Config
from memopt.base.errors import UsageError
from memopt.base.events import Events
from memopt.base.metrics import Metrics
from memopt.base.units import KIB, MIB
from memopt.bench.plan import Costs, Plan, PlanOptions, Tiers, plan, sentence, settings_of
from memopt.bench.traces import Trace
from memopt.paging.pager import Pager
from memopt.policies.catalog import POLICIES, make_policy


def skewed(requests: int, keys: int, seed: int = 1) -> list[int]:
    chance = random.Random(seed)
    return [int((keys + 1) ** chance.random()) - 1 for _ in range(requests)]


def trace_of(keys: list[int], sizes: list[int], stored: list[int] | None = None) -> Trace:
    return Trace(
        name="drawn",
        format="memopt",
        keys=np.array(keys, dtype=np.int32),
        sizes=np.array(sizes, dtype=np.int64),
        stored=np.array(stored, dtype=np.int64) if stored else None,
    )


def options(**changes: object) -> PlanOptions:
    return PlanOptions(**{"budget_bytes": 8 * MIB, "jobs": 1, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 150 pages of sizes from 1 to 8 KB, which compress by half and more."""
    path = tmp_path_factory.mktemp("plan") / "store"
    chance = random.Random(3)
    with memopt.open(path, budget="32MiB", page_target_bytes=1000, maintenance_seconds=0) as memory:
        for each in range(30):
            session = memory.session(f"s{each}")
            for _ in range(5):
                pad = chance.randbytes(chance.randint(500, 4000)).hex()
                session.append({"role": "user", "content": pad})
    return path


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("l1_share", [0.1, 0.5, 1.0])
def test_the_tiers_answer_what_a_pager_answers(store: Path, policy: str, l1_share: float) -> None:
    with memopt.open(store, budget="32MiB", maintenance_seconds=0) as memory:
        home, compressor = memory._parts.directory.home, memory._parts.compaction._compressor
        with home.snapshot() as tables:
            rows = tables.pages.scan((0, 0), 1000)
        assert len(rows) > 100
        limit = sum(row.raw_bytes for row in rows) // 4
        metrics = Metrics()
        pager = Pager(
            home, compressor, Budget(limit), make_policy=lambda: make_policy(policy),
            clock=ManualClock(), events=Events(metrics), promotion_batch_pages=1,
            l1_share=l1_share,
        )  # fmt: skip
        touched = [rows[key] for key in skewed(4000, len(rows))]
        for row in touched:
            list(pager.open([row], 0))
        counters = dict(metrics.counters)
        pager.clear()
    # By the numbers of the pages, for a policy may hash them.
    sizes = {row.page: (row.raw_bytes, row.stored_bytes) for row in rows}
    raw, stored = zip(*(sizes.get(page, (1, 1)) for page in range(max(sizes) + 1)), strict=True)
    tiers = Tiers(lambda: make_policy(policy), raw, stored, pages_bytes=limit, l1_share=l1_share)
    tiers.play(array("i", [row.page for row in touched]))
    assert counters["page_hits"] > 200
    assert counters["faults_major"] > 500
    assert tiers.used_bytes() <= limit
    assert (tiers.l1_hits, tiers.l2_hits, tiers.misses, tiers.evictions) == tuple(
        counters[name] for name in ("page_hits", "faults_minor", "faults_major", "pages_evicted")
    )


def test_what_is_too_large_for_everything_is_not_kept() -> None:
    tiers = Tiers(lambda: make_policy("lru"), [900_000], [800_000], pages_bytes=KIB, l1_share=0.5)
    tiers.play([0, 0, 0])
    assert (tiers.misses, tiers.used_bytes()) == (3, 0)


@pytest.fixture(scope="module")
def found() -> Plan:
    trace = trace_of(skewed(3000, 900), [16_000] * 900, [2000] * 900)
    return plan(trace, options(others_bytes=6 * MIB, policies=("sieve", "lru", "clock", "s3fifo")))


def test_every_policy_is_tried_and_the_best_at_every_share(found: Plan) -> None:
    default = Config()
    at_default = {each.policy for each in found.tried if each.l1_share == default.l1_share}
    assert at_default == {"sieve", "lru", "clock", "s3fifo", default.policy}
    assert len(found.tried) == len(at_default) + 3 * 4
    assert found.best == min(found.tried, key=lambda each: each.mean_us)
    assert found.default.policy == default.policy
    assert found.compression_ratio == 8.0
    assert found.pages_bytes == 2 * MIB


def test_the_figures_of_a_try_add_up(found: Plan) -> None:
    costs = found.costs
    for each in found.tried:
        assert each.hit_ratio == pytest.approx(each.l1_ratio + each.l2_ratio)
        spent = (
            each.l1_ratio * costs.l1_us
            + each.l2_ratio * costs.l2_us
            + (1 - each.hit_ratio) * costs.l3_us
        )
        assert each.mean_us == pytest.approx(spent)


def test_the_settings_of_a_plan_can_be_opened(found: Plan, tmp_path: Path) -> None:
    file = tmp_path / "memopt.toml"
    file.write_text(found.toml)
    config = Config.load(file, environ={})
    assert config.budget_bytes == found.budget_bytes
    assert (config.policy, config.l1_share) == (found.best.policy, found.best.l1_share)
    assert tomllib.loads(found.toml).keys() == {"budget_bytes", "policy", "l1_share"}


def test_an_admission_policy_is_a_setting_of_its_own() -> None:
    trace = trace_of(skewed(500, 50), [16_000] * 50)
    policies = ("lru+frequency",)
    result = plan(trace, options(others_bytes=8 * MIB - 200_000, policies=policies))
    (asked, *_) = [each for each in result.tried if each.policy == "lru+frequency"]
    assert 0 < asked.hit_ratio < 1
    settings = tomllib.loads(settings_of(8 * MIB, asked))
    assert (settings["policy"], settings["admission_policy"]) == ("lru", "frequency")
    assert Config(**settings).admission_policy == "frequency"


def test_the_sentence_says_what_to_use_and_what_the_defaults_do(found: Plan) -> None:
    line = sentence(found)
    assert f"use policy {found.best.policy}, l1_share {found.best.l1_share:g}" in line
    assert "a budget of 8.0 MiB" in line
    assert "\n" not in line


def test_a_loop_that_only_compressed_pages_can_hold_is_planned_with_little_l1() -> None:
    """150 pages in turn: they fit into RAM compressed, and not otherwise."""
    trace = trace_of(list(range(150)) * 20, [16_000] * 150, [4000] * 150)
    result = plan(trace, options(others_bytes=8 * MIB - 900_000, policies=("lru",)))
    assert result.best.l1_share == 0.1
    assert result.best.hit_ratio > 0.9
    assert result.default.hit_ratio < 0.3


def test_where_a_hit_costs_what_a_miss_costs_nothing_is_won() -> None:
    same = Costs(l1_us=5.0, l2_us=5.0, l3_us=5.0)
    trace = trace_of(skewed(500, 50), [16_000] * 50)
    result = plan(trace, options(costs=same, policies=("lru",)))
    assert {each.mean_us for each in result.tried} == {5.0}
    assert result.compression_ratio == pytest.approx(7.0, abs=0.01)


def test_many_processes_find_what_one_finds() -> None:
    trace = trace_of(skewed(80_000, 400), [16_000] * 400, [2000] * 400)
    chosen = {
        "others_bytes": 7 * MIB,
        "policies": ("adaptive", "sieve"),
        "l1_shares": (0.25, 0.5, 1.0),
    }
    told: list[tuple[int, int]] = []
    many = plan(trace, options(**chosen, jobs=2), lambda done, total: told.append((done, total)))
    assert many == plan(trace, options(**chosen))
    assert told[-1] == (80_000 * 6, 80_000 * 6)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("budget_bytes", {"budget_bytes": 1000}),
        ("l1_share", {"l1_shares": (0.0,)}),
        ("policy", {"policies": ("nonsense",)}),
        ("policy", {"policies": ("fifo",)}),
        ("admission_policy", {"policies": ("lru+nonsense",)}),
        ("jobs", {"jobs": 0}),
        ("ratio", {"ratio": 0.5}),
        ("ratio", {"ratio": float("inf")}),
        ("costs", {"costs": Costs(l3_us=float("inf"))}),
        ("costs", {"costs": Costs(l1_us=9.0, l2_us=5.0, l3_us=6.0)}),
        ("others_bytes", {"others_bytes": 8 * MIB}),
    ],
)
def test_what_cannot_be_planned_is_refused_by_its_name(
    field: str, changes: dict[str, object]
) -> None:
    with pytest.raises(UsageError) as caught:
        options(**changes)
    assert caught.value.field == field
