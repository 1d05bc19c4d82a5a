"""Names, scopes and counts that callers give: what they may look like, and how scopes contain each
other."""

import re
from typing import Final

from memopt.base.errors import UsageError

_BYTES_MAX: Final = 512
_USUAL_NAME: Final = re.compile(r"[\w/:@.-]{1,512}", re.ASCII)
_USUAL_SCOPE: Final = re.compile(r"(?=.{1,512}\Z)[\w:@-]+(?:/[\w:@-]+)*", re.ASCII)
"""Most names are of this form, and are checked by one match: every handle checks two."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_BAD_COMPONENT: Final = re.compile(r"(?:^|/)(?:\s*|\.\.?)(?:/|$)")


def check_scope(scope: object, *, field: str = "scope") -> str:
    """A path of components joined by "/", such as "acme/user-42"."""
    if type(scope) is str and _USUAL_SCOPE.fullmatch(scope):
        return scope
    path = check_name(scope, field=field)
    if _BAD_COMPONENT.search(path):
        raise UsageError(f"components must not be empty, '.' or '..', got {path!r}", field=field)
    return path


def check_name(name: object, *, field: str) -> str:
    if type(name) is str and _USUAL_NAME.fullmatch(name):
        return name
    if not isinstance(name, str):
        raise UsageError(f"expected a string, got {type(name).__name__}", field=field)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise UsageError("a lone surrogate is not text", field=field) from None
    if not 0 < size <= _BYTES_MAX:
        raise UsageError(f"expected 1 to {_BYTES_MAX} bytes of UTF-8, got {size}", field=field)
    if _CONTROL.search(name):
        raise UsageError("control characters are not allowed", field=field)
    return str(name)


def check_count(value: object, *, field: str, least: int = 0, most: int = 2**63 - 1) -> int:
    """An integer within its limits: a count, a place, a version, an LSN."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"expected an integer, got {type(value).__name__}", field=field)
    if value < least:
        raise UsageError(f"expected {least} or more, got {value}", field=field)
    if value > most:
        raise UsageError(f"expected {most} or less, got {value}", field=field)
    return value


def tenant_of(scope: str) -> str:
    return scope.partition("/")[0]


def ancestors_of(scope: str) -> list[str]:
    """The scope and those above it, from the tenant down."""
    parts = scope.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]
