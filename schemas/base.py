"""The model base: camelCase outside, snake_case inside; instants are aware UTC with milliseconds."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

from schemas.duration import parse_duration


def to_instant(moment: datetime) -> datetime:
    """The same moment in UTC, cut to milliseconds: what a BSON date can hold, so that a value survives a round trip."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


Instant = Annotated[AwareDatetime, AfterValidator(to_instant)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]


class Model(BaseModel):
    """Frozen; refuses unknown fields; reads camelCase and snake_case; writes camelCase with ``by_alias=True``."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
    )
