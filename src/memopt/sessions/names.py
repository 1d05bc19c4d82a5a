"""A session's name. What names may look like is in base/names.py, and at hand here."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from memopt.base.errors import CorruptionError
from memopt.base.names import ancestors_of as ancestors_of
from memopt.base.names import check_count as check_count
from memopt.base.names import check_name as check_name
from memopt.base.names import check_scope as check_scope
from memopt.base.names import tenant_of as tenant_of


class SessionKey(NamedTuple):
    scope: str
    id: str


@contextlib.contextmanager
def naming(key: SessionKey) -> Iterator[None]:
    """Damage that is met in here is damage of this session, and says so."""
    try:
        yield
    except CorruptionError as error:
        if error.session is not None:
            raise
        raise error.named(*key) from error
