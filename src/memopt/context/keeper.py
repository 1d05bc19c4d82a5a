"""What is taken away takes along what contexts made of it: summaries, recalled blocks, pins.

A summary tells of its session's messages and those it was forked from; a recalled block may quote
anything of its scope. So where a message is taken away, everything goes that was derived in its
scope, and is made again when somebody asks for it; where a memory is, the recalled blocks go. That
is more than must go, and costs a prefix that has to be read anew.

Owns: that rule. Invariant: after a commit that takes something away nothing derived of it is left,
and nothing that was begun before is kept after it. Not here: forgetting itself (sessions/).
"""

from collections.abc import Callable, Sequence

from memopt.journal.commit import CommitTransaction


class ContextKeeper:
    """An ItemWatcher. Thread-safe."""

    def __init__(self) -> None:
        self.taken_count = 0
        """Commits that took something away, of any scope. Under the commit lock it only grows."""
        self.forget_ids: Callable[[], None] = lambda: None
        """Lets go of what is in RAM."""

    def taken(
        self, transaction: CommitTransaction, scope_number: int, line: int, seq: int | None
    ) -> None:
        """A message, or all of a line."""
        self.taken_count += 1
        tables = transaction.tables
        tables.contexts.delete(line, None)
        tables.contexts.delete_scope(scope_number, "")
        if seq is not None:
            tables.message_pins.delete(line, seq)
        else:
            # What forks share of it stays, and so does what is pinned of that.
            shared = max((child.base for child in tables.lines.children(line)), default=0)
            tables.message_pins.delete_from(line, shared)
        transaction.after_commit(self.forget_ids)

    def all_taken(self, transaction: CommitTransaction, scope_numbers: Sequence[int]) -> None:
        """Something was to be forgotten in these scopes: a model that wrote a summary may have said
        in it what no message says."""
        self.taken_count += 1
        for scope_number in scope_numbers:
            transaction.tables.contexts.delete_scope(scope_number, "")
        transaction.after_commit(self.forget_ids)

    def stated(
        self, transaction: CommitTransaction, scope_number: int, item: int, version: int
    ) -> None:
        """A block says what was so when it was asked for."""

    def marked(self, transaction: CommitTransaction, scope_number: int, item: int) -> None:
        """The same."""

    def forgotten(
        self, transaction: CommitTransaction, scope_number: int, item: int, versions: int
    ) -> None:
        self.taken_count += 1
        transaction.tables.contexts.delete_scope(scope_number, "r")
