"""Schema versions: an older one is brought forward, a newer one is refused by name."""

from pathlib import Path

import apsw
import pytest

import memopt
from memopt.base.errors import StoreVersionError
from memopt.stores import schema
from memopt.stores.schema import SCHEMA_VERSION, migrate


def test_a_new_database_gets_every_step(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "a.db"))
    migrate(connection)
    assert connection.pragma("user_version") == SCHEMA_VERSION
    migrate(connection)
    connection.close()


def test_an_older_schema_is_migrated_step_by_step_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memopt.open(tmp_path, maintenance_seconds=0) as memory:
        memory.session("a").append({"n": 1})
    later = {
        SCHEMA_VERSION + 1: "CREATE TABLE one (n INTEGER); INSERT INTO one VALUES (1)",
        SCHEMA_VERSION + 2: "ALTER TABLE one RENAME TO two",
    }
    monkeypatch.setattr(schema, "_MIGRATIONS", schema._MIGRATIONS | later)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", SCHEMA_VERSION + 2)
    with memopt.open(tmp_path, maintenance_seconds=0) as memory:
        assert list(memory.session("a").messages()) == [{"n": 1}]
        memory.session("a").append({"n": 2})
        connection = memory._parts.directory.home.writer.connection
        assert connection.pragma("user_version") == SCHEMA_VERSION + 2
        assert connection.execute("SELECT n FROM two").fetchall() == [(1,)]


def test_a_migration_that_fails_leaves_the_step_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    broken = {SCHEMA_VERSION + 1: "CREATE TABLE half (n INTEGER); SELECT no_such_function()"}
    monkeypatch.setattr(schema, "_MIGRATIONS", schema._MIGRATIONS | broken)
    connection = apsw.Connection(str(tmp_path / "a.db"))
    with pytest.raises(apsw.SQLError):
        migrate(connection)
    assert connection.pragma("user_version") == SCHEMA_VERSION
    assert not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'half'").fetchall()
    connection.close()


def test_a_newer_schema_is_refused_by_name_and_not_touched(tmp_path: Path) -> None:
    with memopt.open(tmp_path, maintenance_seconds=0) as memory:
        memory.session("a").append({"n": 1})
        connection = memory._parts.directory.home.writer.connection
        connection.pragma("user_version", 99)
    before = (tmp_path / "memopt.db").read_bytes()
    with pytest.raises(StoreVersionError, match=r"schema version 99.*newer memopt"):
        memopt.open(tmp_path, maintenance_seconds=0)
    assert (tmp_path / "memopt.db").read_bytes() == before
    # And it let go of the directory.
    with pytest.raises(StoreVersionError):
        memopt.open(tmp_path, maintenance_seconds=0)


def test_a_store_without_collections_gets_them_and_keeps_its_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(schema, "SCHEMA_VERSION", 1)
        with memopt.open(tmp_path, maintenance_seconds=0) as memory:
            memory.session("a", scope="acme").append({"n": 1})
            connection = memory._parts.directory.home.writer.connection
            assert connection.pragma("user_version") == 1
            names = connection.execute("SELECT name FROM sqlite_schema").fetchall()
            assert ("entries",) not in names
    with memopt.open(tmp_path, maintenance_seconds=0) as memory:
        assert list(memory.session("a", scope="acme").messages()) == [{"n": 1}]
        memory.session("a", scope="acme").mapping("m")["k"] = 1
        memory.sequence("l", scope="acme").append(2)
        assert memory.check().values == 2
        memory.session("a", scope="acme").delete()
    with memopt.open(tmp_path, maintenance_seconds=0) as memory:
        assert list(memory.sequence("l", scope="acme")) == [2]
        assert (
            memory._parts.directory.home.writer.connection.pragma("user_version") == SCHEMA_VERSION
        )
