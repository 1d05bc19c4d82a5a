"""How a process that is to be killed opens its store: drawn by chance."""

import random
from pathlib import Path
from typing import Any, NamedTuple

from memopt.base.config import Config
from memopt.base.records import Durability, Seal
from memopt.memory import Memory
from memopt.wiring import open_memory


class Settings(NamedTuple):
    """How one process opens the store."""

    durability: Durability
    threads: int
    config: dict[str, Any]

    @classmethod
    def draw(cls, chance: random.Random) -> "Settings":
        """Small limits, so that everything that happens rarely happens often."""
        return cls(
            chance.choice((Durability.SYNC, Durability.OS)),
            chance.choice((1, 1, 3)),
            {
                "budget_bytes": "24MiB",
                "page_target_bytes": chance.choice((600, 1500, 4000)),
                "wal_limit_bytes": chance.choice(("64KiB", "256KiB", "4MiB")),
                "seal": chance.choice((Seal.FULL, Seal.IDLE, Seal.ALWAYS)),
                "l1_idle_seconds": chance.choice((0.0, 0.02, 300.0)),
                "dictionary_training_pages": 24,
                "dictionary_bytes": 2048,
                "dictionary_scopes_min": 3,
                "text_bytes_min": 300,
                "state_keyframe_versions": 3,
                "maintenance_seconds": 0.01,
                "ballast_bytes": 65536,
                "commit_batch_max": 8,
            },
        )

    def open(self, path: Path) -> Memory:
        config = Config.load(environ={}, durability=self.durability, **self.config)
        return open_memory(path, config=config)
