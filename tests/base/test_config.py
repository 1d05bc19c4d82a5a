"""Settings: where they come from, who wins, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from memopt.base.answer_records import AnswerContext
from memopt.base.config import Config
from memopt.base.errors import UsageError
from memopt.base.recall_records import Indexing
from memopt.base.records import Durability, PoolShares, Prefetch, Seal
from memopt.base.units import GIB, KIB, MIB

NAMES = [field.name for field in dataclasses.fields(Config)]
OPTIONAL = {
    "access_log",
    "admission_policy",
    "answer_ttl_seconds",
    "disk_quota_bytes",
    "state_versions_max",
    "journal_retention_seconds",
    "journal_retention_records",
    "rss_limit_bytes",
}
MAY_BE_ZERO = {
    "maintenance_seconds", "ballast_bytes", "l1_idle_seconds", "probe_seconds", "heap_arenas_max",
    "pressure_dwell_seconds", "pressure_aggressiveness", "turn_wait_seconds",
}  # fmt: skip
WORDS = {
    "durability",
    "seal",
    "indexing",
    "policy",
    "admission_policy",
    "access_log",
    "collection_trigger",
    "collection_policy",
    "recall_policy",
    "answer_context",
}
NUMBERS = [name for name in NAMES if name not in WORDS]
every_name = pytest.mark.parametrize("name", NAMES)


def load(**arguments: Any) -> Config:
    """Without the environment of whoever runs the tests."""
    return Config.load(environ={}, **arguments)


def having(name: str, value: Any) -> Config:
    return Config(**{name: value})


def toml(directory: Path, text: str) -> Path:
    file = directory / "memopt.toml"
    file.write_text(text, "utf-8")
    return file


def test_without_sources_the_defaults_hold() -> None:
    assert load() == Config()
    assert Config().budget_bytes == 512 * MIB
    assert Config().durability is Durability.SYNC


def test_a_toml_file_overrides_defaults(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        'budget_bytes = "64MiB"\ndurability = "os"\nl2_idle_seconds = "15m"\nl1_share = 0.25\n'
        'promotion_batch_pages = 4\npolicy = "sieve"\nseal = "always"\nwal_limit_bytes = 1048576\n',
    )
    config = load(file=file)
    assert config == Config(
        budget_bytes=64 * MIB,
        durability=Durability.OS,
        l2_idle_seconds=900.0,
        l1_share=0.25,
        promotion_batch_pages=4,
        policy="sieve",
        seal=Seal.ALWAYS,
        wal_limit_bytes=MIB,
    )
    assert type(config.promotion_batch_pages) is int
    assert type(config.seal) is Seal


def test_variables_override_the_file_and_arguments_override_both(tmp_path: Path) -> None:
    file = toml(tmp_path, 'budget_bytes = "16MiB"\npage_target_bytes = "8KiB"\nseal = "full"\n')
    environ = {"MEMOPT_BUDGET_BYTES": "32MiB", "MEMOPT_SEAL": "always", "MEMOPT_NOTHING": "x"}
    config = Config.load(file, environ=environ, budget_bytes="64MiB")
    assert config.page_target_bytes == 8 * KIB
    assert config.seal is Seal.ALWAYS
    assert config.budget_bytes == 64 * MIB


def test_an_argument_of_none_leaves_what_there_was() -> None:
    environ = {"MEMOPT_BUDGET_BYTES": "32MiB"}
    assert Config.load(environ=environ, budget_bytes=None).budget_bytes == 32 * MIB


def test_the_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOPT_BUDGET_BYTES", "48MiB")
    assert Config.load().budget_bytes == 48 * MIB


def test_a_variable_turns_an_optional_limit_off(tmp_path: Path) -> None:
    file = toml(tmp_path, 'disk_quota_bytes = "1GiB"\n')
    assert load(file=file).disk_quota_bytes == GIB
    environ = {"MEMOPT_DISK_QUOTA_BYTES": "none"}
    assert Config.load(file, environ=environ).disk_quota_bytes is None


@every_name
def test_every_setting_is_read_from_its_variable(name: str) -> None:
    values: dict[str, tuple[str, Any]] = {
        "durability": ("os", Durability.OS),
        "seal": ("full", Seal.FULL),
        "indexing": ("off", Indexing.OFF),
        "answer_context": ("any", AnswerContext.ANY),
        "answer_wrong_share": ("0.05", 0.05),
        "vector_bits": ("4", 4),
        "recall_policy": ("sieve", "sieve"),
        "policy": ("clock", "clock"),
        "admission_policy": ("size", "size"),
        "access_log": ("here/accesses", "here/accesses"),
        "collection_trigger": ("growth", "growth"),
        "collection_policy": ("sieve", "sieve"),
        "prefetch": ("next", Prefetch.NEXT),
        "pool_shares": ("soft", PoolShares.SOFT),
        "l1_share": ("0.75", 0.75),
        "thrashing_share": ("0.25", 0.25),
        "pressure_guarded_share": ("0.5", 0.5),
        "pressure_high_share": ("0.8", 0.8),
        "pressure_aggressiveness": ("1", 1.0),
        "turn_share": ("0.25", 0.25),
        "turn_scope_share": ("0.25", 0.25),
        "turn_session_share": ("0.25", 0.25),
        "budget_bytes": ("9MiB", 9 * MIB),
        "access_log_bytes_max": ("1MiB", MIB),
    }
    text, expected = values.get(name, ("17", 17))
    config = Config.load(environ={f"MEMOPT_{name.upper()}": text})
    assert getattr(config, name) == expected
    assert config == having(name, expected)


@every_name
@pytest.mark.parametrize(
    "value",
    [
        "bananas",
        [],
        {},
        True,
        float("nan"),
        float("inf"),
        pytest.param("9" * 400, id="400 digits"),
        -1,
    ],
)
def test_a_bad_value_names_its_setting(name: str, value: object) -> None:
    if name in (
        "policy",
        "admission_policy",
        "collection_trigger",
        "collection_policy",
        "recall_policy",
    ) and isinstance(value, str):
        # Whether there is one of that name is asked on the floor where they are known.
        assert getattr(having(name, value), name) == value
        return
    if name == "access_log" and isinstance(value, str):
        # Whether a file can be made there is known when the store is opened.
        assert Config(access_log=value).access_log == value
        return
    with pytest.raises(UsageError) as caught:
        having(name, value)
    assert caught.value.field == name


@pytest.mark.parametrize("name", NUMBERS)
def test_zero_is_refused_where_it_would_switch_nothing_off(name: str) -> None:
    if name in MAY_BE_ZERO:
        assert getattr(having(name, 0), name) == 0
        return
    with pytest.raises(UsageError) as caught:
        having(name, 0)
    assert caught.value.field == name


@every_name
def test_none_is_for_optional_limits_alone(name: str) -> None:
    if name in OPTIONAL:
        assert getattr(having(name, None), name) is None
        return
    with pytest.raises(UsageError, match="a value is needed") as caught:
        having(name, None)
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget_bytes", 8 * MIB - 1),
        ("access_log_bytes_max", 256 * KIB - 1),
        ("l1_share", 1.01),
        ("thrashing_share", 1.01),
        ("message_bytes_max", "513MiB"),
        ("state_bytes_max", "1GiB"),
        ("message_depth_max", 201),
        ("page_target_bytes", "5MiB"),
        ("dictionary_bytes", "2MiB"),
        ("promotion_batch_pages", 1025),
        ("wal_limit_bytes", "5GiB"),
        ("commit_queue_max", 1.5),
        ("commit_queue_max", "1.5"),
        ("budget_bytes", 64.5),
        ("durability", "SYNC!"),
        ("seal", ""),
    ],
)
def test_a_value_out_of_bounds_names_its_setting(name: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        load(**{name: value})
    assert caught.value.field == name


def test_a_wrong_choice_lists_the_right_ones() -> None:
    with pytest.raises(UsageError, match="expected one of sync, os, got 'maybe'"):
        load(durability="maybe")


def test_a_setting_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    for source in (
        {"file": toml(tmp_path, "budget_byte = 5\n")},
        {"budget_byte": 5},
    ):
        with pytest.raises(UsageError, match="there is no such setting") as caught:
            load(**source)
        assert caught.value.field == "budget_byte"


@pytest.mark.parametrize("text", ["budget_bytes = ", "= 5", "\x00"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text: str) -> None:
    file = toml(tmp_path, text)
    with pytest.raises(UsageError, match="cannot be read") as caught:
        load(file=file)
    assert str(file) in str(caught.value.field)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "missing.toml", tmp_path, binary):
        with pytest.raises(UsageError, match="cannot be read") as caught:
            load(file=file)
        assert str(file) in str(caught.value.field)


def test_a_config_is_frozen_and_replace_checks_again() -> None:
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.budget_bytes = 1  # type: ignore[misc]
    assert config.replace(budget_bytes="64MiB").budget_bytes == 64 * MIB
    with pytest.raises(UsageError) as caught:
        config.replace(budget_bytes=1)
    assert caught.value.field == "budget_bytes"


@pytest.mark.parametrize(
    "name",
    [
        field.name
        for field in dataclasses.fields(Config)
        if isinstance(getattr(Config(), field.name), int | float)
    ],
)
@pytest.mark.parametrize("value", [1e300, 2**200])
def test_no_number_is_larger_than_threads_and_c_libraries_can_take(name: str, value: float) -> None:
    with pytest.raises(UsageError) as caught:
        Config(**{name: value})
    assert caught.value.field == name
