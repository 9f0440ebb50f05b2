"""Settings: from the environment, once; what is wrong is said with the variable and the fix."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import ConfigError
from service.settings import EMBEDDED, MEMORY_BROKER, Settings, hide_password, load_settings


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("VERGER_"):
            monkeypatch.delenv(name)


def test_nothing_needs_to_be_set() -> None:
    settings = load_settings()

    assert (settings.mongodb_url, settings.amqp_url, settings.embedded) == (EMBEDDED, MEMORY_BROKER, True)
    assert settings.heartbeat == timedelta(seconds=10)
    assert settings.idempotency_window <= settings.retention


def test_variables_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "VERGER_MONGODB_URL": "mongodb://h:27017/?replicaSet=rs0",
        "VERGER_AMQP_URL": "amqps://u:p@h/",
        "VERGER_ACTORS": " myapp.jobs , actors.sessions,",
        "VERGER_TYPES": "a,b",
        "VERGER_STALE_CLAIM_TIMEOUT": "PT1M",
        "verger_retention": "2d",
        "VERGER_CONCURRENCY": "7",
        "VERGER_DATA_DIR": "/tmp/x",
    }.items():
        monkeypatch.setenv(name, value)

    settings = load_settings()

    assert not settings.embedded
    assert settings.actors == ("myapp.jobs", "actors.sessions")
    assert settings.types == ("a", "b")
    assert (settings.stale_claim_timeout, settings.retention) == (timedelta(minutes=1), timedelta(days=2))
    assert settings.heartbeat == timedelta(seconds=20)
    assert (settings.concurrency, settings.data_dir) == (7, Path("/tmp/x"))


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VERGER_MONGOD", "VERGER_TYPES", "VERGER_MONGODB_URL", "VERGER_RETENTION"):
        monkeypatch.setenv(name, "")

    assert load_settings() == Settings()


def test_what_the_caller_says_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERGER_CONCURRENCY", "7")

    settings = load_settings(concurrency=9, retention="3h", types=["a"])

    assert (settings.concurrency, settings.retention, settings.types) == (9, timedelta(hours=3), ("a",))


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().concurrency = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("VERGER_MONGODB_URL", "http://h/", "mongodb://"),
        ("VERGER_AMQP_URL", "http://h/", "amqp://"),
        ("VERGER_STALE_CLAIM_TIMEOUT", "soon", "write 90s"),
        ("VERGER_STALE_CLAIM_TIMEOUT", "1s", "between 3s and 1h"),
        ("VERGER_STALE_CLAIM_TIMEOUT", "2h", "between 3s and 1h"),
        ("VERGER_RETENTION", "1m", "raise it"),
        ("VERGER_RETENTION", "-1m", "write 90s"),
        ("VERGER_CONCURRENCY", "0", "greater than or equal to 1"),
        ("VERGER_CONCURRENCY", "many", "integer"),
        ("VERGER_KEEP_COMPLETED", "-1", "greater than or equal to 0"),
        ("VERGER_DATABASE", "a.b", "match pattern"),
        ("VERGER_DATABASE", "x" * 61, "match pattern"),
        ("VERGER_MEMORY_DATABASE", "a b", "match pattern"),
        ("VERGER_PREFIX", "a b", "match pattern"),
        ("VERGER_LOG_LEVEL", "loud", "'debug'"),
        ("VERGER_MAX_MESSAGE_BYTES", "1", "1024"),
    ],
)
def test_a_wrong_value_is_said_with_its_variable_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, fix: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert name in str(caught.value)
    assert fix in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERGER_CONCURRENCY", "0")
    monkeypatch.setenv("VERGER_LOG_FORMAT", "xml")

    with pytest.raises(ConfigError, match=r"VERGER_CONCURRENCY.*; VERGER_LOG_FORMAT"):
        load_settings()


@pytest.mark.parametrize("name", ["VERGER_MONGODB_URL", "VERGER_AMQP_URL"])
def test_a_wrong_address_is_not_repeated_for_it_may_hold_a_password(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "htp://me:secret@h/")

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("VERGER_CONCURENCY", "VERGER_CONCURRENCY"),
        ("VERGER_MONGO_URL", "VERGER_MONGODB_URL"),
        ("VERGER_XYZZY", "docs/"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    monkeypatch.setenv(name, "5")

    with pytest.raises(ConfigError, match=name) as caught:
        load_settings()

    assert hint in str(caught.value)


def test_variables_of_others_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCURRENCY", "5")
    monkeypatch.setenv("VERGERS", "5")

    assert load_settings() == Settings()


@pytest.mark.parametrize(
    "name",
    ["VERGER_SERVICE_HOST", "VERGER_API_SERVICE_PORT_HTTP", "VERGER_API_PORT_80_TCP_ADDR", "VERGER_METRICS_PORT"],
)
def test_what_kubernetes_says_of_a_service_of_our_name_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")

    load_settings()


def test_what_kubernetes_says_of_a_service_called_verger_api_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERGER_API_PORT", "tcp://10.0.0.1:80")
    assert load_settings().api_port == 8080

    monkeypatch.setenv("VERGER_API_PORT", "9090")
    assert load_settings().api_port == 9090


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mongodb://me:secret@h1:1,h2:2/db?authSource=secret", "mongodb://me:***@h1:1,h2:2/db"),
        ("mongodb+srv://me:s%40cret@h/", "mongodb+srv://me:***@h/"),
        ("mongodb://h:27017/?replicaSet=rs0", "mongodb://h:27017/"),
        ("amqp://me@h/", "amqp://me@h/"),
        ("amqp://:secret@h/", "amqp://:***@h/"),
        ("amqps://me:sec/ret@h:5671/vhost", "amqps://me:***@h:5671/vhost"),
        ("mongodb://me:s:e?c#r@et@h:1/x", "mongodb://me:***@h:1/x"),
        ("memory://", "memory://"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert hide_password(url) == shown
