"""Which project a history is of: the folder that a coding agent worked in first.

Not here: which scope a project has.
"""

import re
from typing import Any, Final

import msgspec

from memopt.base.errors import UsageError
from memopt.base.names import check_scope
from memopt.base.units import KIB
from memopt.past.files import Source, head_of
from memopt.past.parsing import PARSE_ERRORS, parsed

_HEAD_BYTES: Final = 256 * KIB
_LINES_LOOKED_AT: Final = 50
_BETWEEN: Final = re.compile(r"[/\\]+")
_ANY: Final = msgspec.json.Decoder()


def project_of(source: Source) -> str | None:
    """The last part of the folder's name, as a part of a scope; None where a file says none."""
    if source.member is not None:
        return None
    for line in head_of(source, _HEAD_BYTES).split(b"\n", _LINES_LOOKED_AT)[:_LINES_LOOKED_AT]:
        try:
            record = parsed(line.strip(), _ANY)
        except PARSE_ERRORS:
            continue
        folder = _folder_of(record) or _folder_of(_payload_of(record))
        if folder is not None:
            return _name_of(folder)
    return None


def _payload_of(record: Any) -> Any:
    return record.get("payload") if isinstance(record, dict) else None


def _folder_of(record: Any) -> str | None:
    folder = record.get("cwd") if isinstance(record, dict) else None
    return folder if isinstance(folder, str) and folder else None


def _name_of(folder: str) -> str | None:
    parts = [part for part in _BETWEEN.split(folder) if part]
    try:
        return check_scope(parts[-1]) if parts else None
    except UsageError:
        return None
