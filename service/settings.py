"""Settings: one frozen object, read from ``VERGER_*`` once, at the entry point."""

import difflib
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.base import Duration
from service.errors import ConfigError

PREFIX = "VERGER_"
Names = Annotated[tuple[str, ...], NoDecode]
_SERVICE_LINK = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)")
"""What Kubernetes tells each pod of a Service called ``verger…``; no setting is called so."""
DATABASE_NAME = r"^[A-Za-z0-9_-]{1,60}$"
EMBEDDED = "embedded"
MEMORY_BROKER = "memory://"
API_PORT = 8080


class Settings(BaseSettings):
    """Every setting. The name of its variable is ``VERGER_`` and the field's name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", validate_default=True
    )

    mongodb_url: str = Field(
        EMBEDDED, description="MongoDB 6.0 or later, a replica set; `embedded` starts a private one."
    )
    amqp_url: str = Field(MEMORY_BROKER, description="RabbitMQ 3.10 or later; `memory://` stays inside the process.")
    database: str = Field("verger", pattern=DATABASE_NAME, description="Database of tasks and schedules.")
    memory_database: str = Field(
        "memory", pattern=DATABASE_NAME, description="Database the maintenance actors work on."
    )
    prefix: str = Field(
        "verger", pattern=r"^[A-Za-z0-9_.-]{1,60}$", description="First part of every name on the broker."
    )
    actors: Names = Field(
        ("actors.sessions", "actors.memories", "actors.files", "actors.graph", "actors.vectors"),
        description="Modules with handlers, separated by commas. Every role loads the same.",
    )
    roles: Annotated[tuple[Literal["scheduler", "worker", "api"], ...], NoDecode] = Field(
        (),
        description="What `verger run` runs, unless `--roles` says so: of `scheduler`, `worker`, `api`, separated by "
        "commas; empty: all that fit.",
    )
    types: Names = Field(
        (), description="Task types this worker consumes beside Verger's own, separated by commas; empty: all."
    )
    concurrency: int = Field(
        100, ge=1, le=10_000, description="Slots for each task type, unless its handler says otherwise."
    )
    stale_claim_timeout: Duration = Field(
        timedelta(seconds=30), description="A claim not renewed for this long is rescued; renewed every third of it."
    )
    shutdown_grace: Duration = Field(
        timedelta(seconds=25), description="How long running handlers may finish after SIGTERM."
    )
    retention: Duration = Field(timedelta(hours=24), description="How long completed and cancelled tasks are kept.")
    keep_completed: int = Field(100, ge=0, description="How many completed tasks of a type are kept at most.")
    idempotency_window: Duration = Field(timedelta(hours=1), description="No finished task is pruned sooner.")
    dead_letter_retention: Duration = Field(timedelta(days=30), description="How long dead letters are kept.")
    audit_retention: Duration = Field(timedelta(days=90), description="How long the admin API's audit is kept.")
    unknown_type_grace: Duration = Field(
        timedelta(minutes=10), description="How long a task of an unknown type waits for a roll-out."
    )
    max_message_bytes: int = Field(256 * 1024, ge=1024, le=8 * 1024 * 1024, description="Largest message body.")
    max_result_bytes: int = Field(64 * 1024, ge=1024, le=8 * 1024 * 1024, description="Largest result that is kept.")
    api_host: str = Field(
        "127.0.0.1", description="Address the admin API listens on. Beyond loopback it asks for keys."
    )
    api_port: int = Field(API_PORT, ge=0, le=65535, description="Its port; 0 takes a free one.")
    api_keys: Names = Field(
        (), description="Keys of the admin API as `verger keys create` prints them, separated by commas."
    )
    api_keys_file: Path | None = Field(
        None, description="File with a key in each line; read again when it changes, so that a key can be revoked."
    )
    api_hosts: Names = Field(
        (),
        description="Names by which requests may call the admin API (`Host` header), beyond `localhost` and addresses.",
    )
    health_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of `/healthz`, `/readyz` and `/metrics` of every role, without keys; 0 takes a free one; "
        "empty: none is opened. With `--processes`, that of the first; the others take those after it.",
    )
    health_host: str = Field(
        "0.0.0.0",  # noqa: S104 - probes come from outside
        description="Address that port listens on.",
    )
    data_dir: Path = Field(Path(".verger"), description="Where embedded mode and local files live.")
    mongod: Path | None = Field(None, description="The mongod of embedded mode; empty: looked for.")
    log_format: Literal["json", "console"] = Field("json", description="`json` lines, or `console` for people.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    claude_projects: Path | None = Field(
        None, description="Session files that `sessions.collect` reads when its task names none."
    )

    embedder: Literal["hashing", "ollama"] = Field(
        "hashing", description="What makes vectors: `hashing` needs no model and finds shared words; or `ollama`."
    )
    summariser: Literal["extractive", "ollama"] = Field(
        "extractive", description="What summarises: `extractive` picks central sentences, without a model; or `ollama`."
    )
    ollama_url: str = Field("http://127.0.0.1:11434", pattern=r"^https?://[^\s]+$", description="Where Ollama listens.")
    embedding_model: str = Field("nomic-embed-text", min_length=1, description="Ollama's model for vectors.")
    summary_model: str = Field("llama3.2", min_length=1, description="Ollama's model for summaries.")
    vectors_dir: Path | None = Field(
        None, description="Where LanceDB keeps its tables; empty: `vectors` in VERGER_DATA_DIR."
    )
    secrets_dir: Path | None = Field(
        None, description="Folder of secrets, a file each: what a `secretRef` names, as Kubernetes mounts a Secret."
    )
    http_allow: Names = Field(
        (),
        description="Networks (`10.1.0.0/16`) and hosts (`siem.internal`, `127.0.0.1:8443`) beside the public internet "
        "that webhooks, connectors and SIEM endpoints may be at, separated by commas.",
    )

    @field_validator("actors", "roles", "types", "api_keys", "api_hosts", "http_allow", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("api_port", mode="before")
    @classmethod
    def _no_service_link(cls, value: object) -> object:
        # What Kubernetes says to each pod where a Service is called verger-api.
        return API_PORT if isinstance(value, str) and value.startswith("tcp://") else value

    @field_validator("mongodb_url")
    @classmethod
    def _mongodb(cls, value: str) -> str:
        if value != EMBEDDED and urlsplit(value).scheme not in ("mongodb", "mongodb+srv"):
            raise ValueError("write mongodb://host:27017/?replicaSet=rs0, or embedded")
        return value

    @field_validator("amqp_url")
    @classmethod
    def _amqp(cls, value: str) -> str:
        if value != MEMORY_BROKER and urlsplit(value).scheme not in ("amqp", "amqps"):
            raise ValueError("write amqp://user:password@host:5672/, or memory://")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not timedelta(seconds=3) <= self.stale_claim_timeout <= timedelta(hours=1):
            raise ValueError("VERGER_STALE_CLAIM_TIMEOUT must be between 3s and 1h")
        if self.retention < self.idempotency_window:
            raise ValueError("VERGER_RETENTION is shorter than VERGER_IDEMPOTENCY_WINDOW; raise it")
        return self

    @property
    def embedded(self) -> bool:
        return self.mongodb_url == EMBEDDED

    @property
    def heartbeat(self) -> timedelta:
        return self.stale_claim_timeout / 3


def load_settings(**overrides: Any) -> Settings:
    """Read ``VERGER_*``; ``overrides`` win.

    Raises:
        ConfigError: a value is wrong, or a ``VERGER_*`` variable is unknown; names the variable and the fix.
    """
    _refuse_unknown()
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            field = str(problem["loc"][0]) if problem["loc"] else ""
            name = f"{PREFIX}{field.upper()}: " if field else ""
            message = problem["msg"].removeprefix("Value error, ")
            shown = "" if "url" in field or not field else f" (it is {str(problem['input'])[:80]!r})"
            lines.append(f"{name}{message}{shown}")
        raise ConfigError("; ".join(lines)) from None


def _refuse_unknown() -> None:
    known = [field.upper() for field in Settings.model_fields]
    for name in os.environ:
        prefix, _, rest = name.upper().partition(PREFIX)
        if not prefix and rest and rest not in known and not _SERVICE_LINK.fullmatch(f"_{rest}"):
            near = difflib.get_close_matches(rest, known, n=1)
            hint = f"; did you mean {PREFIX}{near[0]}?" if near else "; see docs/configuration.md"
            raise ConfigError(f"{name} is not a setting{hint}")


def hide_password(url: str) -> str:
    """The URL as it may be shown: its password is ``***``, its query is gone."""
    scheme, _, rest = url.partition("://")
    # The last @, wherever it is: a password that was not escaped may hold any of : / ? # @ itself.
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}{at}{place.partition('?')[0]}"
