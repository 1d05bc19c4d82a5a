"""What the checksum of a stored frame covers beside its bytes: whose they are and where."""

import struct
from typing import Final

from memopt.base.records import PageRow

_PAGE: Final = struct.Struct("<cQQII")
_STATE: Final = struct.Struct("<cQQ")


def page_key(row: PageRow) -> bytes:
    return _PAGE.pack(b"P", row.page, row.line, row.start, row.stop)


def text_key(digest: bytes) -> bytes:
    return b"T" + digest


def state_key(session: int, name: str, version: int) -> bytes:
    return _STATE.pack(b"S", session, version) + name.encode()
