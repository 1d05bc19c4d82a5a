"""Puts the floors below sessions together: the half of wiring.py that is about pages."""

import contextlib
import logging
import threading
from random import Random
from typing import NamedTuple

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.errors import (
    CorruptionError,
    MemoptError,
)
from memopt.base.events import Events
from memopt.base.protocols import Clock, Policy, Reader, Tables
from memopt.base.records import PageRow, PoolShares
from memopt.base.units import MIB
from memopt.codecs.keys import page_key
from memopt.codecs.zstd import Zstd
from memopt.directory import Directory
from memopt.journal.commit import GroupCommitter
from memopt.journal.subscription import Subscriptions
from memopt.paging.access_log import AccessLog
from memopt.paging.arena import Arena, extent_bytes_for
from memopt.paging.dictionaries import Dictionaries
from memopt.paging.page_writer import PageWriter
from memopt.paging.pager import Pager
from memopt.paging.pools import Pools
from memopt.paging.prefetch import Prefetcher
from memopt.paging.working_set import WorkingSets
from memopt.policies.catalog import make_policy
from memopt.pressure.collector import Collector
from memopt.pressure.triggers import make_trigger
from memopt.sessions.residents import Residents
from memopt.upkeep import Upkeep

_RAW_BYTES_MAX = 1024 * MIB
WORKING_SETS = "working_sets"
"""Meta entry: the history that predictions start from."""
_SHADOW_PER_BYTES = 8192
_SHADOWS_MAX = 32768


class Storage(NamedTuple):
    """The floors below sessions."""

    committer: GroupCommitter
    dictionaries: Dictionaries
    compressor: Zstd
    pager: Pager
    prefetcher: Prefetcher
    residents: Residents
    pages: PageWriter
    upkeep: Upkeep
    access_log: AccessLog | None
    arena: Arena
    collector: Collector


def wire_storage(
    directory: Directory, config: Config, clock: Clock, events: Events, budget: Budget,
    subscriptions: Subscriptions,
) -> Storage:  # fmt: skip
    home = directory.home
    committer = GroupCommitter(
        home.writer, directory, clock=clock, events=events, lsn=directory.lsn,
        at_us=directory.at_us, batch_max=config.commit_batch_max,
        queue_max=config.commit_queue_max, deliver=subscriptions.deliver,
        has_listeners=subscriptions.has_listeners, on_failure=log_failure,
    )  # fmt: skip

    def read_page(tables: Tables, row: PageRow) -> bytes:
        body = tables.pages.body(row.page)
        return compressor.decode(body, key=page_key(row)) if body is not None else b""

    dictionaries = Dictionaries(
        home, read_page, budget, size_bytes=config.dictionary_bytes,
        scopes_min=config.dictionary_scopes_min, training_pages=config.dictionary_training_pages,
    )  # fmt: skip
    compressor = Zstd(budget, dictionary=dictionaries.body, raw_bytes_max=_RAW_BYTES_MAX)
    sets = WorkingSets(
        clock.monotonic(), window_seconds=config.working_set_seconds,
        thrashing_share=config.thrashing_share,
        shadows_max=min(max(budget.limit_bytes // _SHADOW_PER_BYTES, 1024), _SHADOWS_MAX),
    )  # fmt: skip
    budget.reserve("working sets", sets.charged_bytes())
    _restore_sets(home, sets)
    access_log = None
    if config.access_log is not None:
        access_log = AccessLog(
            config.access_log, bytes_max=config.access_log_bytes_max, clock=clock, budget=budget
        )

    def make_one() -> Policy:
        return make_policy(config.policy, admission=config.admission_policy, now=clock.monotonic)

    def make_pool() -> Policy:
        if config.pool_shares is PoolShares.OFF:
            return make_one()
        return Pools(make_one, lambda page: pager.type_of(page), sets)

    pager = Pager(
        home, compressor, budget, make_policy=make_pool, clock=clock,
        events=events, promotion_batch_pages=config.promotion_batch_pages,
        l1_share=config.l1_share, sets=sets, access_log=access_log,
    )  # fmt: skip
    prefetcher = Prefetcher(
        home, pager, budget, clock=clock, events=events, kind=config.prefetch,
        recent_seconds=config.l1_idle_seconds,
    )  # fmt: skip
    residents = Residents(budget, config.resident_sessions_max)
    upkeep = Upkeep(pager, residents, compressor, home.close_idle_readers, budget.limit_bytes)
    budget.on_shortage(upkeep.make_free)
    pages = PageWriter(
        compressor, dictionaries.of, next_page=home.newest_page() + 1,
        text_bytes_min=config.text_bytes_min,
    )  # fmt: skip
    arena = Arena(
        budget, clock=clock, events=events, extent_bytes=extent_bytes_for(budget.limit_bytes)
    )
    collector = Collector(
        arena, make_trigger(config.collection_trigger, Random()), name=config.collection_trigger,
        clock=clock, wait=threading.Event().wait,
    )  # fmt: skip
    return Storage(
        committer, dictionaries, compressor, pager, prefetcher, residents, pages, upkeep,
        access_log, arena, collector,
    )  # fmt: skip


def _restore_sets(home: Reader, sets: WorkingSets) -> None:
    """What was predicted when the store was closed. It is a hint: one that is damaged is begun
    anew."""
    with contextlib.suppress(CorruptionError), home.snapshot() as tables:
        packed = tables.meta.get(WORKING_SETS)
        if packed is not None:
            sets.restore(packed)


def log_failure(error: MemoptError) -> None:
    logging.getLogger("memopt").error("%s", error)
