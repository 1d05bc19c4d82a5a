"""What an acked page and a log say about each other, case by case."""

from typing import NamedTuple

import pytest

from memopt.journal.recovery import LogFacts, LogVerdict, judge_log, lost_records

SALT = 5 << 32 | 77
NEXT = 6 << 32 | 1234
"""Of the log that is begun anew after SALT's."""
OTHER = 900_000 << 32 | 3


class Case(NamedTuple):
    what: str
    frames: int
    home: int
    copying: int
    found_salt: int
    found_frames: int
    verdict: str
    """Which of short, stale and mixed hold."""
    acked_salt: int = SALT


CASES = [
    Case("as it was acknowledged", 10, 0, 0, SALT, 10, ""),
    Case("a commit was in flight", 10, 0, 0, SALT, 12, ""),
    Case("its end is missing", 10, 0, 0, SALT, 7, "short"),
    Case("all of it is missing", 10, 0, 0, SALT, 0, "short"),
    Case("its end is missing, some of the rest was home", 10, 4, 4, SALT, 7, "short"),
    Case("what is left is older than the database", 10, 6, 6, SALT, 5, "short stale mixed"),
    Case("the same, and nothing beyond was acknowledged", 10, 10, 10, SALT, 5, "stale mixed"),
    Case("nothing is left, and all was home", 10, 10, 10, SALT, 0, ""),
    Case("all was home, and it is still there", 10, 10, 10, SALT, 10, ""),
    Case("a checkpoint was copying what is missing", 10, 0, 10, SALT, 7, "short mixed"),
    Case("a checkpoint was copying, nothing is missing", 10, 0, 10, SALT, 10, ""),
    Case("there is no log, and all was home", 10, 10, 10, 0, 0, ""),
    Case("there is no log, and not all was home", 10, 9, 9, 0, 0, "short"),
    Case("there is no log, nor was one acknowledged", 0, 0, 0, 0, 0, "", acked_salt=0),
    Case("the first log, not acknowledged yet", 0, 0, 0, SALT, 3, "", acked_salt=0),
    Case("begun anew, all was home", 10, 10, 10, NEXT, 3, ""),
    Case("begun anew, and the page is older", 10, 0, 0, NEXT, 3, ""),
    Case("begun anew, and nothing of it survived", 10, 0, 0, NEXT, 0, ""),
    Case("another log altogether", 10, 0, 0, OTHER, 40, "short"),
    Case("an older log", 10, 0, 0, (4 << 32) | 9, 40, "short"),
    Case("another log altogether, all was home", 10, 10, 10, OTHER, 40, ""),
    Case("begun anew, past the end of the salts", 9, 0, 0, 1, 3, "", acked_salt=(2**32 - 1) << 32),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_log_is_judged_by_what_was_acknowledged(case: Case) -> None:
    facts = LogFacts(
        acked_salt=case.acked_salt, acked_frames=case.frames, acked_home=case.home,
        acked_copying=case.copying, found_salt=case.found_salt, found_frames=case.found_frames,
    )  # fmt: skip
    verdict = judge_log(facts)
    found = [name for name in ("short", "stale", "mixed") if getattr(verdict, f"is_{name}")]
    if found == ["mixed"]:
        found = []  # It says something of what is missing, and nothing is.
    assert found == case.verdict.split()


SHORT = LogVerdict(is_short=True, is_stale=False)
MIXED = LogVerdict(is_short=True, is_stale=False, is_mixed=True)
WHOLE = LogVerdict(is_short=False, is_stale=False)


@pytest.mark.parametrize(
    ("verdict", "acked_lsn", "run_lsn", "highest", "lost"),
    [
        (WHOLE, 100, 0, 50, 0),
        (SHORT, 100, 0, 90, 10),
        (SHORT, 100, 0, 100, 0),
        (SHORT, 100, 0, 103, 0),
        (MIXED, 100, 0, 100, 1),
        (MIXED, 100, 0, 90, 10),
        # LSNs 41 to 1024 were skipped when the last run began.
        (SHORT, 1030, 1024, 40, 6),
        (SHORT, 1030, 1024, 1027, 3),
        # Nothing was written since.
        (SHORT, 40, 1024, 30, 10),
        (SHORT, 40, 1024, 40, 0),
    ],
)
def test_what_is_missing_is_counted(
    verdict: LogVerdict, acked_lsn: int, run_lsn: int, highest: int, lost: int
) -> None:
    assert lost == lost_records(verdict, acked_lsn=acked_lsn, run_lsn=run_lsn, highest=highest)
