"""Soft shares: the type furthest above its share gives first, and each type keeps its own order."""

import random
from pathlib import Path

import memopt
from memopt.base.clock import ManualClock
from memopt.paging.pools import Pools
from memopt.paging.working_set import WorkingSets
from memopt.policies.lru import Lru


def pools(sets: WorkingSets) -> Pools:
    """Members above 100 are of type 2, the others of type 1."""
    return Pools(Lru, lambda key: 2 if key > 100 else 1, sets)


def with_sets(*, resident: tuple[int, int], touched: tuple[int, int]) -> WorkingSets:
    sets = WorkingSets(0.0, window_seconds=10.0)
    assert (sets.type_of("desk"), sets.type_of("code")) == (1, 2)
    for number in (1, 2):
        sets.resident_bytes[number] = resident[number - 1]
        sets.touched(number, touched[number - 1])
    sets.ended(10.0)
    return sets


def test_nobody_is_named_where_there_is_nobody() -> None:
    assert pools(with_sets(resident=(0, 0), touched=(1, 1))).victim() is None


def test_the_type_furthest_above_its_share_gives_its_own_victim() -> None:
    one = pools(with_sets(resident=(600, 400), touched=(800, 200)))
    for key in (1, 101, 2, 102):
        one.admitted(key, 10)
    one.touched(101)
    # code has 40 % and may expect 20 %.
    assert one.victim() == 102
    one.removed(102)
    assert one.victim() == 101
    one.removed(101)
    assert one.victim() == 1, "nobody else is left in this tier"


def test_a_type_may_have_more_than_its_share_while_others_do_not_use_theirs() -> None:
    one = pools(with_sets(resident=(100, 900), touched=(900, 100)))
    one.admitted(1, 10)
    assert one.victim() == 1


def test_what_the_policies_take_is_charged() -> None:
    one = pools(with_sets(resident=(0, 0), touched=(1, 1)))
    before = one.charged_bytes()
    lru = Lru()
    for key in range(1, 101):
        one.admitted(key, 10)
        lru.admitted(key, 10)
    assert one.charged_bytes() == before + lru.charged_bytes()


def test_a_store_with_shares_keeps_the_type_that_reads_again_through_a_scan(
    tmp_path: Path,
) -> None:
    missed = {kind: _desk_faults(tmp_path / kind, kind) for kind in ("off", "soft")}
    assert missed["soft"] < missed["off"]


def _desk_faults(path: Path, kind: str) -> int:
    clock, chance = ManualClock(), random.Random(0)
    faults = 0
    with memopt.open(
        path, budget="8MiB", durability="os", seal="always", pool_shares=kind, clock=clock,
        maintenance_seconds=0, policy="lru",
    ) as memory:  # fmt: skip
        for agent, count in (("desk", 20), ("code", 150)):
            for number in range(count):
                session = memory.session(f"{agent}-{number}", agent=agent)
                session.append({"content": chance.randbytes(20_000).hex()})

        def read(agent: str, number: int) -> int:
            before = memory.stats().counters["faults_major"]
            list(memory.session(f"{agent}-{number}").messages())
            return memory.stats().counters["faults_major"] - before

        # By itself, code is one session at a time; then it goes through all of them.
        for _ in range(3):
            for number in range(20):
                read("desk", number)
            read("code", 0)
            clock.advance(61)
            memory._parts.maintenance.once()
        for number in range(150):
            read("code", number)
        for number in range(20):
            faults += read("desk", number)
        memory._parts.pager.check()
    return faults
