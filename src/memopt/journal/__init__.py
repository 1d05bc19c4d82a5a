"""The ordered log of everything that happened: grouped commits, history, and who listens."""

from memopt.journal.commit import GroupCommitter
from memopt.journal.subscription import Subscription, Subscriptions

__all__ = ["GroupCommitter", "Subscription", "Subscriptions"]
