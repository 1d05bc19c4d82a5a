"""The one place that knows every class: puts a Memory together, and takes care of its order."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from memopt.admitting import admission_of
from memopt.answers.engine import AnswerEngine
from memopt.base.answer_protocols import AnswerKeeper
from memopt.base.budget import Budget
from memopt.base.clock import SystemClock
from memopt.base.config import Config
from memopt.base.context_protocols import Summarizer
from memopt.base.errors import (
    CorruptionError,
)
from memopt.base.events import Events
from memopt.base.forks import of_parent
from memopt.base.item_protocols import ItemKeeper
from memopt.base.metrics import Metrics
from memopt.base.protocols import Clock, CollectionKeeper, Probe, Reader
from memopt.base.readings import Level
from memopt.base.records import Seal
from memopt.base.units import MIB
from memopt.collections.cache import EntryCache
from memopt.collections.engine import TurnsTold
from memopt.collections.maker import Collections
from memopt.collections.turns import ScratchCommitter, TurnOwners, Turns
from memopt.context.checking import ContextChecking
from memopt.context.engine import Contexts
from memopt.context.keeper import ContextKeeper
from memopt.context.tokens import Tokenizers
from memopt.directory import Directory
from memopt.embedding.choose import embedder_maker
from memopt.journal.commit import GroupCommitter
from memopt.journal.history import History
from memopt.journal.subscription import Subscriptions
from memopt.maintenance import Maintenance
from memopt.memory import Memory
from memopt.owner import serve_owner
from memopt.parts import Parts, RecallParts
from memopt.policies.catalog import make_policy
from memopt.pressure.admission import Admission
from memopt.pressure.forecast import Forecaster
from memopt.pressure.governor import Governor, Step
from memopt.pressure.leaks import LeakWatch
from memopt.pressure.monitor import Acting, Monitor
from memopt.pressure.outside import Outside
from memopt.pressure.probe import Start, SystemProbe, read_start
from memopt.pressure.triggers import make_trigger
from memopt.recall.engine import RecallEngine
from memopt.recall.indexing import TakenToo
from memopt.sessions.branches import Branches
from memopt.sessions.checking import Checking
from memopt.sessions.compaction import Compaction, install_learnt
from memopt.sessions.forgetting import Forgetting
from memopt.sessions.owners import Owners
from memopt.sessions.reading import LineReader
from memopt.sessions.session import Sessions
from memopt.sessions.states import States
from memopt.sessions.transcripts import Transcripts
from memopt.sessions.turns import collecting
from memopt.stores.scratch import Scratch
from memopt.upkeep import limit_heap_arenas, trim_heap
from memopt.wiring_answers import Kept, wire_answers, wire_kept
from memopt.wiring_context import Plugs, check_summarizer, wire_context
from memopt.wiring_recall import wire_engine, wire_recall
from memopt.wiring_storage import WORKING_SETS, Storage, log_failure, wire_storage

_EVICTABLE = (
    "pages", "texts", "policies", "sessions", "collections", "collection policies", "arena",
    "recall", "recall policies", "answers", "server", "contexts",
)  # fmt: skip
"""Owners of the budget whose bytes can be given back at once: all of it is at home."""
_PROBE_SECONDS = 0.25
"""What a forecast takes for the time between readings, where they are taken by hand."""
_TURN_PEAKS = "turn_peaks"
"""Meta entry: what turns of each agent type needed."""
_TURN_PEAKS_SECONDS = 60.0
_FIXED_BYTES = 1 * MIB
"""Threads' stacks in use, metrics, the commit queue, the acked page: measured, not itemised."""


def open_memory(
    path: str | os.PathLike[str], *, budget: int | str | None = None,
    durability: str | None = None, read_only: bool = False,
    config: Config | str | os.PathLike[str] | None = None, embedder: Any = None,
    tokenizer: Any = None, summarizer: Summarizer | None = None,
    clock: Clock | None = None, vfs: str | None = None, create: bool = True,
    probe: Probe | None = None, **settings: Any,
) -> Memory:  # fmt: skip
    """Open the store in directory `path`, and make it if it is not there.

    `config` is a Config or a TOML file; `budget`, `durability` and further settings by name come
    before it, and MEMOPT_* variables in between. `embedder`: as docs/embedding.md says; `tokenizer`
    and `summarizer`: as docs/context.md says. Raises StoreLockedError when another process owns the
    directory, CorruptionError, StoreVersionError, UsageError naming a bad setting.
    """
    settings |= {"budget_bytes": budget, "durability": durability}
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(config, Config):
        whole = config.replace(**given) if given else config
    else:
        whole = Config.load(config, **given)
    make_policy(whole.policy, admission=whole.admission_policy)
    make_policy(whole.collection_policy, field="collection_policy")
    make_policy(whole.recall_policy, field="recall_policy")
    make_trigger(whole.collection_trigger, Random())
    plugs = Plugs(embedder_maker(embedder), Tokenizers(tokenizer), check_summarizer(summarizer))
    return _wire(
        Path(path), whole, plugs, clock or SystemClock(), vfs, probe,
        create=create and not read_only, read_only=read_only,
    )  # fmt: skip


def _wire(
    path: Path, config: Config, plugs: Plugs, clock: Clock, vfs: str | None,
    probe: Probe | None, *, create: bool, read_only: bool,
) -> Memory:  # fmt: skip
    start = read_start()
    limit_heap_arenas(config.heap_arenas_max)
    metrics = Metrics()
    events = Events(metrics)
    budget = Budget(config.budget_bytes)
    budget.reserve("runtime", _FIXED_BYTES)
    directory = Directory(path, config, budget, clock, events, create=create, vfs=vfs)
    try:
        return _wire_parts(
            directory, config, plugs, clock, metrics, events, budget, start, probe, read_only
        )
    except BaseException:
        directory.close(directory.lsn, failed=True)
        raise


def _wire_parts(
    directory: Directory, config: Config, plugs: Plugs, clock: Clock,
    metrics: Metrics, events: Events, budget: Budget, start: Start, probe: Probe | None,
    read_only: bool,
) -> Memory:  # fmt: skip
    home = directory.home
    subscriptions = Subscriptions(budget)
    storage = wire_storage(directory, config, clock, events, budget, subscriptions)
    committer, dictionaries, compressor, pager, prefetcher, residents, pages, _, *_ = storage
    engine = wire_engine(
        directory, committer, compressor, pager, storage.upkeep, config, clock, budget, events,
        plugs.make_embedder,
    )  # fmt: skip
    monitor = _wire_pressure(
        directory, config, clock, events, budget, storage, engine, start, probe
    )
    admit = admission_of(directory, config, events, monitor.governor, read_only=read_only)
    kept = wire_kept(directory, committer, compressor, storage.upkeep, budget)
    derived, rows = ContextKeeper(), ContextChecking(home, committer, compressor)
    indexer = TakenToo(TakenToo(engine.indexer, kept.keeper.taken), derived.taken)
    transcripts = Transcripts(
        home, committer, residents, pages, dictionaries, config=config, clock=clock,
        events=events, admit=admit, budget=budget, indexer=indexer,
    )  # fmt: skip
    branches = Branches(
        committer, transcripts, residents, pages, pager,
        lambda: committer.exclusive(directory.make_room), indexer,
    )  # fmt: skip
    reader = LineReader(home.snapshot, pager)
    states = States(
        home, committer, transcripts, compressor, budget, config=config, events=events, admit=admit
    )
    collections, turns = _wire_collections(
        directory, config, clock, events, budget, storage, transcripts, admit, monitor.admission
    )
    branches.keeper = collections.keeper
    compaction = Compaction(
        home, committer, transcripts, pages, pager, dictionaries, compressor, config=config,
        clock=clock, events=events, drop_dictionary=compressor.drop, index=engine.finish,
        mend=rows.mend,
    )  # fmt: skip
    recall, answers = _wire_memories(
        directory, config, clock, events, budget, storage, transcripts, admit, engine, kept
    )
    checking, forgetting = _wire_care(
        directory, config, clock, events, storage, branches, reader, states,
        (collections.keeper, recall.keeper, kept.keeper), rows, derived,
    )  # fmt: skip
    contexts = wire_context(
        directory, committer, compressor, reader, storage.upkeep, config, clock, budget, events,
        recall, derived, plugs,
    )  # fmt: skip
    sessions = Sessions(
        config, min(config.message_bytes_max, config.budget_bytes // 4), transcripts, branches,
        reader, states, collections, turns, monitor.admission, contexts,
    )  # fmt: skip
    steps = _steps(
        directory, config, clock, events, storage, transcripts, collections, engine, answers,
        monitor, read_only=read_only,
    )  # fmt: skip
    return Memory(
        Parts(
            config=config, clock=clock, budget=budget, metrics=metrics, events=events,
            directory=directory, committer=committer, subscriptions=subscriptions,
            history=History(home, compressor), pager=pager, prefetcher=prefetcher,
            dictionaries=dictionaries, residents=residents, sessions=sessions,
            forgetting=forgetting, recall=recall, answers=answers, contexts=contexts,
            checking=checking, compaction=compaction,
            maintenance=Maintenance(config.maintenance_seconds, steps), upkeep=storage.upkeep,
            pressure=monitor, serve=serve_owner,
            release=_releasing(
                budget, storage, monitor, turns, collections, states, recall, answers, contexts
            ),
            abandon=_abandoning(
                directory, budget, subscriptions, storage, monitor, turns, collections, engine,
                answers, contexts,
            ),
        ),
        read_only=read_only,
    )  # fmt: skip


def _wire_memories(
    directory: Directory, config: Config, clock: Clock, events: Events, budget: Budget,
    storage: Storage, transcripts: Transcripts, admit: Callable[[int], None],
    engine: RecallEngine, kept: Kept,
) -> tuple[RecallParts, AnswerEngine]:  # fmt: skip
    owners, committer = Owners(transcripts), storage.committer
    recall = wire_recall(
        directory.home, committer, owners, storage.compressor, config, clock, budget, admit, engine
    )
    recall.items.watchers.append(kept.keeper)
    storage.upkeep.ask_also(lambda _: recall.contradicting.shrink())
    answers = wire_answers(
        directory, committer, owners, storage.compressor, config, clock, budget, events, admit,
        engine.embedder, kept,
    )  # fmt: skip
    return recall, answers


def _wire_care(
    directory: Directory, config: Config, clock: Clock, events: Events, storage: Storage,
    branches: Branches, reader: LineReader, states: States,
    keepers: tuple[CollectionKeeper, ItemKeeper, AnswerKeeper], rows: ContextChecking,
    derived: ContextKeeper,
) -> tuple[Checking, Forgetting]:  # fmt: skip
    home, committer, compressor = directory.home, storage.committer, storage.compressor
    checking = Checking(
        home, committer, reader, storage.pages, compressor, *keepers, rows, clock=clock,
        events=events, wait=threading.Event().wait, bytes_per_second=config.check_bytes_per_second,
    )  # fmt: skip
    forgetting = Forgetting(
        home, committer, branches, reader, states, compressor, *keepers,
        derived.all_taken, config.state_keyframe_versions,
    )  # fmt: skip
    return checking, forgetting


def _releasing(
    budget: Budget, storage: Storage, monitor: Monitor, turns: Turns, collections: Collections,
    states: States, recall: RecallParts, answers: AnswerEngine, contexts: Contexts,
) -> Callable[[], None]:  # fmt: skip
    def release() -> None:
        if storage.access_log is not None:
            storage.access_log.close()
        monitor.release()
        storage.pager.clear()
        turns.close()
        collections.close()
        storage.arena.close()
        contexts.close()
        answers.close()
        recall.engine.close()
        recall.contradicting.shrink()
        budget.release_all("working sets")
        states.close()
        storage.compressor.close()
        storage.residents.close()
        storage.dictionaries.close()
        budget.release("runtime", _FIXED_BYTES)

    return release


def _abandoning(
    directory: Directory, budget: Budget, subscriptions: Subscriptions, storage: Storage,
    monitor: Monitor, turns: Turns, collections: Collections, engine: RecallEngine,
    answers: AnswerEngine, contexts: Contexts,
) -> Callable[[], None]:  # fmt: skip
    def abandon() -> None:
        budget.abandon()
        subscriptions.abandon()
        storage.committer.fail(of_parent())
        storage.pager.abandon()
        monitor.abandon(of_parent())
        turns.abandon()
        collections.abandon()
        answers.abandon()
        contexts.abandon()
        engine.abandon()
        directory.abandon()

    return abandon


def _wire_collections(
    directory: Directory, config: Config, clock: Clock, events: Events, budget: Budget,
    storage: Storage, transcripts: Transcripts, admit: Callable[[int], None],
    admission: Admission,
) -> tuple[Collections, Turns]:  # fmt: skip
    cache = EntryCache(
        budget, lambda: make_policy(config.collection_policy, now=clock.monotonic), events,
        storage.arena,
    )  # fmt: skip

    def make_room() -> bool:
        return storage.committer.exclusive(directory.make_room)

    collections = Collections(
        directory.home, storage.committer, Owners(transcripts), storage.compressor, cache, budget,
        config=config, events=events, admit=admit, make_room=make_room,
        turns=TurnsTold(admission.open_turns, collecting(admission)),
    )  # fmt: skip
    ask_first = storage.pager.ask_first
    storage.pager.ask_first = lambda size: cache.make_free_of_excess(size) or ask_first(size)
    storage.upkeep.ask_also(collections.make_free)
    storage.upkeep.shrink_also(cache.limit, lambda: cache.freed_bytes)
    scratch = Scratch(directory.path / "scratch", budget, config.scratch_bytes_max)
    owners = TurnOwners()
    of_turns = Collections(
        scratch, ScratchCommitter(scratch, clock), owners, storage.compressor, cache, budget,
        config=config, events=events, admit=lambda size_bytes: None, make_room=make_room,
        turns=TurnsTold(owners.open, owners.held),
    )  # fmt: skip
    storage.upkeep.ask_also(lambda _: of_turns.rows.shrink())
    return collections, Turns(scratch, owners, of_turns)


def _wire_pressure(
    directory: Directory, config: Config, clock: Clock, events: Events, budget: Budget,
    storage: Storage, engine: RecallEngine, start: Start, probe: Probe | None,
) -> Monitor:  # fmt: skip
    pager, prefetcher, upkeep = storage.pager, storage.prefetcher, storage.upkeep

    def evictable_bytes() -> int:
        return sum(map(budget.held_bytes, _EVICTABLE)) + storage.compressor.idle_bytes()

    def collect() -> None:
        storage.collector.collect()
        upkeep.collect()

    if probe is None:
        system = SystemProbe(
            budget, evictable_bytes, start, rss_limit_bytes=config.rss_limit_bytes,
            disk=directory.path,
        )  # fmt: skip
        directory.notes.extend(system.notes)
        probe = system
    period = min(config.probe_seconds, config.maintenance_seconds)
    guarded, high = Level.GUARDED, Level.HIGH
    governor = Governor(
        [
            Step("stop prefetching", guarded, prefetcher.stop, prefetcher.start),
            Step("put off merging", guarded, engine.put_off_merging, engine.merge_on),
            Step("shrink caches", guarded, upkeep.shrink_caches, upkeep.restore_caches),
            Step("empty L1", high, pager.empty_l1, pager.fill_l1),
            Step("put off indexing", high, engine.indexer.put_off, engine.indexer.go_on),
            Step("collect", high, collect, upkeep.collect_later),
        ],
        Forecaster(period or _PROBE_SECONDS), guarded_share=config.pressure_guarded_share,
        high_share=config.pressure_high_share, aggressiveness=config.pressure_aggressiveness,
        dwell_seconds=config.pressure_dwell_seconds, clock=clock, events=events,
    )  # fmt: skip
    admission = Admission(
        budget, governor, capacity_bytes=int(config.turn_share * config.budget_bytes),
        default_bytes=config.turn_bytes, queue_max=config.turn_queue_max,
        wait_seconds=config.turn_wait_seconds, scope_share=config.turn_scope_share,
        session_share=config.turn_session_share, clock=clock, events=events,
    )  # fmt: skip
    acting = Acting(
        governor, Outside(budget, upkeep.trim_now, events), admission,
        LeakWatch(config.leak_window_seconds, events),
    )  # fmt: skip
    save = _keep_peaks(directory.home, storage.committer, admission)
    monitor = Monitor(
        probe, acting, budget, period_seconds=period, turn_share=config.turn_share,
        sessions=lambda: len(storage.residents), evictable=frozenset(_EVICTABLE), clock=clock,
        note_free=directory.note_free, save=save, save_seconds=_TURN_PEAKS_SECONDS,
    )  # fmt: skip
    storage.dictionaries.ask_before_learning(monitor.has_room)
    return monitor


def _keep_peaks(
    home: Reader, committer: GroupCommitter, admission: Admission
) -> Callable[[], None]:
    """Begin with what an earlier run learnt of turns; returns how to write what is learnt now."""
    with home.snapshot() as tables:
        packed = tables.meta.get(_TURN_PEAKS)
    if packed is not None:
        try:
            admission.peaks.restore(packed)
        except CorruptionError as error:
            # It costs a prediction, and nothing that anybody wrote.
            log_failure(error)

    def save() -> None:
        if not committer.refusing:
            body = admission.peaks.pack()
            committer.commit(lambda t: t.tables.meta.put(_TURN_PEAKS, body))

    return save


def _steps(
    directory: Directory, config: Config, clock: Clock, events: Events, storage: Storage,
    transcripts: Transcripts, collections: Collections, engine: RecallEngine,
    answers: AnswerEngine, monitor: Monitor, *, read_only: bool,
) -> list[Callable[[], None]]:  # fmt: skip
    """What maintenance does, in order."""
    steps: list[Callable[[], None]] = [
        directory.checkpoint_passive,
        lambda: storage.pager.demote_idle(config.l1_idle_seconds, config.l2_idle_seconds),
        lambda: collections.let_idle_go(config.l2_idle_seconds, clock.monotonic()),
        engine.maintain,
        storage.pager.observe,
        storage.prefetcher.refill,
        storage.upkeep.trim,
        storage.collector.step,
    ]
    if storage.access_log is not None:
        steps.append(storage.access_log.flush)
    if read_only:
        return steps

    def learn() -> None:
        dictionaries = storage.dictionaries
        if not dictionaries.due() or not dictionaries.may_learn():
            return
        if not dictionaries.learning.acquire(blocking=False):
            return
        try:
            for tenant in dictionaries.due():
                install_learnt(dictionaries, storage.committer, events, tenant, None)
                trim_heap()
        finally:
            dictionaries.learning.release()

    def save_sets() -> None:
        packed = storage.pager.unsaved_sets()
        if packed is not None:
            storage.committer.commit(lambda t: t.tables.meta.put(WORKING_SETS, packed))

    def restore_ballast() -> None:
        directory.ballast.restore()

    if config.seal is not Seal.FULL:
        steps.append(lambda: transcripts.seal_idle(config.l1_idle_seconds))
    saving = [transcripts.write_touches, save_sets, monitor.save_due]
    return [*steps, learn, *saving, answers.maintain, restore_ballast]
