"""What opening finds out: where the journal ends, and whether acknowledged records are missing.

SQLite takes a damaged frame for the end of its log. The acked page says how many frames there were
when the last record was acknowledged, and how many of those a checkpoint had brought home: fewer
frames than that, not brought home, is a loss, and is counted and reported instead of passing for
the end.
"""

import struct
from typing import Final, NamedTuple

from memopt.base.protocols import Tables

_SCAN_ROWS: Final = 512
_LOGS_BEHIND_MAX: Final = 1 << 16
_LSN: Final = struct.Struct("<Q")
_LSN_OFFSET: Final = 4


class LogFacts(NamedTuple):
    """What the acked page says, and what was found."""

    acked_salt: int
    acked_frames: int
    acked_home: int
    """Frames that a finished checkpoint had brought home."""
    acked_copying: int
    """Frames that a checkpoint may have begun to bring home."""
    found_salt: int
    """Of a header that verifies; 0 when there is none."""
    found_frames: int


class LogVerdict(NamedTuple):
    is_short: bool
    """Acknowledged frames are missing, and were not brought home."""
    is_stale: bool
    """What is left of the log is older than the database: it must not be applied."""
    is_mixed: bool = False
    """The database may hold parts of what is missing, so the newest record proves nothing."""


def judge_log(facts: LogFacts) -> LogVerdict:
    """Whether the log that was found is the one that was acknowledged."""
    if facts.found_frames and facts.found_salt == facts.acked_salt:
        short = facts.found_frames < max(facts.acked_frames, facts.acked_home)
        return LogVerdict(
            is_short=facts.found_frames < facts.acked_frames > facts.acked_home,
            is_stale=short and facts.found_frames < facts.acked_home,
            is_mixed=facts.found_frames < facts.acked_copying,
        )
    if _begun_anew(facts.acked_salt, facts.found_salt):
        # SQLite does that only when all of the old log was brought home; the page is older.
        return LogVerdict(is_short=False, is_stale=False)
    return LogVerdict(
        is_short=facts.acked_frames > facts.acked_home, is_stale=False,
        is_mixed=facts.acked_copying > facts.acked_home,
    )  # fmt: skip


def _begun_anew(acked_salt: int, found_salt: int) -> bool:
    """A log that is begun anew counts the first half of its salt up by one."""
    if not acked_salt or not found_salt:
        return False
    return 0 < ((found_salt >> 32) - (acked_salt >> 32)) % (1 << 32) <= _LOGS_BEHIND_MAX


def lost_records(verdict: LogVerdict, *, acked_lsn: int, run_lsn: int, highest: int) -> int:
    """How many acknowledged records are missing, at least, where `highest` is the highest LSN that
    is left and `run_lsn` where the last run began. A log that is short may have lost none: its end
    held a seal alone, or the acked page is older than the database."""
    if not verdict.is_short or (highest >= acked_lsn and not verdict.is_mixed):
        # Commits are lost from the end, so nothing before the highest is missing.
        return 0
    # LSNs up to where the last run began may have been skipped.
    since = max(highest, run_lsn) if acked_lsn > run_lsn else highest
    return max(1, acked_lsn - since)


def highest_lsn(tables: Tables) -> int:
    """The highest LSN that is stored, found by looking at everything: for when the acked page
    cannot say."""
    highest = 0
    while events := tables.events.since(highest, _SCAN_ROWS):
        highest = events[-1].lsn
    at = (0, 0)
    while rows := tables.tail.scan(at, _SCAN_ROWS):
        highest = max(highest, *(_LSN.unpack_from(record, _LSN_OFFSET)[0] for *_, record in rows))
        at = (rows[-1][0], rows[-1][1])
    at = (0, 0)
    while pages := tables.pages.scan(at, _SCAN_ROWS, last_lsn_above=highest):
        highest = max(highest, *(page.last_lsn for page in pages))
        at = (pages[-1].line, pages[-1].start)
    return max(highest, tables.entry_index.highest_lsn(), tables.answer_order.highest_lsn())
