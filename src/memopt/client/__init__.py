"""The same verbs on a store that another process has open, through its local socket."""

from memopt.client.remote import RemoteMemory, connect

__all__ = ["RemoteMemory", "connect"]
