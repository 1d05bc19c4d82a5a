"""The `memopt` command."""

from memopt.cli.app import main

__all__ = ["main"]
