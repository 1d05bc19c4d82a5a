"""Shared texts that pages in L1 refer to: one `str` for all of them, gone with the last.

Strings cannot be changed, so every reader may be handed the same one.
"""

from typing import Final

from memopt.base.budget import Budget

_ROW_BYTES: Final = 256
_OWNER: Final = "texts"


class TextCache:
    """Texts by number, with the count of resident pages that use each. Not thread-safe."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._texts: dict[int, str] = {}
        self._users: dict[int, int] = {}
        self._charges: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def get(self, text: int) -> str | None:
        return self._texts.get(text)

    def size_bytes(self) -> int:
        return sum(self._charges.values())

    def try_hold(self, texts: dict[int, str]) -> bool:
        """Count one more user of each; False, and no change, when new ones do not fit."""
        new = {text: value for text, value in texts.items() if text not in self._texts}
        charges = {text: _charge(value) for text, value in new.items()}
        if new and not self._budget.try_reserve(_OWNER, sum(charges.values())):
            return False
        self._texts |= new
        self._charges |= charges
        for text in texts:
            self._users[text] = self._users.get(text, 0) + 1
        return True

    def let_go(self, texts: tuple[tuple[bytes, int], ...]) -> None:
        for _, text in texts:
            users = self._users[text] - 1
            if users:
                self._users[text] = users
            else:
                del self._users[text]
                del self._texts[text]
                self._budget.release(_OWNER, self._charges.pop(text))

    def clear(self) -> None:
        """Let everything go, however it stands."""
        self._texts, self._users, self._charges = {}, {}, {}
        self._budget.release_all(_OWNER)

    def check(self) -> None:
        assert self._users.keys() == self._texts.keys()
        assert all(users > 0 for users in self._users.values())
        assert self._budget.owners().get(_OWNER, 0) == self.size_bytes()


def _charge(text: str) -> int:
    # A str takes one, two or four bytes a character, and once somebody encodes it, it keeps its
    # UTF-8 beside them: so its size grows while it is held, and is asked for once.
    return _ROW_BYTES + text.__sizeof__() + (0 if text.isascii() else len(text.encode()))
