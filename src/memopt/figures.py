"""The figures of a running store, gathered from its parts. Not here: counting (base/metrics.py)."""

from typing import Final

from memopt.base.stats_records import Stats
from memopt.parts import Parts
from memopt.sessions.checking import LOST
from memopt.sessions.transcripts import QUARANTINE

_SCOPES_SHOWN: Final = 50


def figures(parts: Parts) -> Stats:
    """What stats() answers; cheap enough to ask every second."""
    home, metrics, budget = parts.directory.home, parts.metrics, parts.budget
    counters, acked = metrics.counters, parts.directory.acked.record
    touches = counters["page_hits"] + counters["faults_minor"] + counters["faults_major"]
    tiers = parts.pager.tiers()
    tiers["l1"]["hits"] = counters["page_hits"]
    tiers["l2"]["hits"] = counters["faults_minor"]
    tiers["l3"] = {"bytes": home.disk_bytes(), "hits": counters["faults_major"]}
    with home.snapshot() as tables:
        sizes = sorted(parts.pager.scopes().items(), key=lambda item: -item[1][0])
        scopes = {
            tables.scopes.path(number) or str(number): {"bytes": size, "objects": count}
            for number, (size, count) in sizes[:_SCOPES_SHOWN]
        }
        quarantined = len(tables.meta.names(QUARANTINE))
        lost = tables.meta.get(LOST)
    pressure = parts.pressure.stats()
    appends, syncs = metrics.histograms["append_seconds"], metrics.histograms["commit_seconds"]
    return Stats(
        lsn=parts.committer.lsn,
        budget_bytes=budget.limit_bytes,
        reserved_bytes=budget.used_bytes,
        reserved_bytes_max=budget.used_bytes_max,
        owners=budget.owners(),
        rss_bytes=pressure.rss_bytes,
        resident_sessions=len(parts.residents),
        tiers=tiers,
        scopes=scopes,
        faults={"minor": counters["faults_minor"], "major": counters["faults_major"]},
        thrashing=parts.pager.sets.refaults.is_thrashing,
        refault_distance_p50=parts.pager.sets.refaults.distance_p50(),
        working_sets={
            one.agent or "": {
                "resident": one.resident_bytes,
                "touched": one.touched_bytes,
                "predicted": one.predicted_bytes,
            }
            for one in parts.pager.working_sets()
        },
        hit_ratio=counters["page_hits"] / touches if touches else 0.0,
        compression_ratio=_ratio(counters["sealed_raw_bytes"], counters["sealed_stored_bytes"]),
        delta_ratio=_ratio(counters["state_raw_bytes"], counters["state_stored_bytes"]),
        wal_bytes=home.wal_bytes(),
        unsealed_bytes=acked.unsealed_bytes,
        oldest_reader_seconds=home.oldest_reader_seconds(),
        sync_seconds_p99=syncs.quantile(0.99),
        append_seconds_p50=appends.quantile(0.5),
        append_seconds_p99=appends.quantile(0.99),
        disk_bytes=home.disk_bytes(),
        disk_free_bytes=home.disk_free_bytes(),
        pressure=pressure,
        lost_records=int(lost) if lost else 0,
        quarantined_sessions=quarantined,
        counters=dict(counters),
        notes=tuple(parts.directory.notes),
    )


def _ratio(raw: int, stored: int) -> float:
    return raw / stored if stored else 0.0
