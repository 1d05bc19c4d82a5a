"""Durable homes: where every acknowledged byte lives."""

from memopt.stores.sqlite import SqliteHome

__all__ = ["SqliteHome"]
