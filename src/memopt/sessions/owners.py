"""Whose collections are: sessions and scopes, found and made as for messages."""

from memopt.base.protocols import Tables
from memopt.journal.commit import CommitTransaction
from memopt.sessions.names import SessionKey
from memopt.sessions.transcripts import Transcripts, scope_number


class Owners:
    """The CollectionOwners of a store."""

    def __init__(self, transcripts: Transcripts) -> None:
        self._transcripts = transcripts

    def find(self, tables: Tables, scope: str, session: str | None) -> tuple[int, int] | None:
        if session is None:
            number = tables.scopes.number(scope)
            return None if number is None else (number, 0)
        row = tables.sessions.find(scope, session)
        return None if row is None else (row.scope_number, row.session)

    def make(
        self, transaction: CommitTransaction, scope: str, session: str | None, agent: str | None
    ) -> tuple[int, int]:
        if session is None:
            return scope_number(transaction.tables, scope), 0
        key = SessionKey(scope, session)
        resident = self._transcripts.resident(transaction, key)
        if resident is None:
            resident = self._transcripts.create(transaction, key, agent)
        return resident.scope_number, resident.session
