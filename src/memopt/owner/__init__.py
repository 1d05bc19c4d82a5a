"""The owner's side of the local socket: who may ask a process for its store, and for what."""

from memopt.owner.door import READS, SOCKET, VERBS, Target, serve_owner, short_path

__all__ = ["READS", "SOCKET", "VERBS", "Target", "serve_owner", "short_path"]
