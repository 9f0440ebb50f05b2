"""The model base: camelCase outside, snake_case inside; instants are aware UTC with milliseconds."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, PlainSerializer
from pydantic.alias_generators import to_camel

from schemas.duration import exact_duration, parse_duration

LAST_YEAR = 8999
"""A thousand years before the calendar of ``datetime`` ends: adding a delay to a stranger's instant cannot fail."""


def in_calendar(moment: datetime) -> bool:
    """Whether it can be kept, in each time zone and with a delay added."""
    return 1 < moment.year <= LAST_YEAR


def to_instant(moment: datetime) -> datetime:
    """The same moment in UTC, cut to milliseconds: what a BSON date can hold, so that a value survives a round trip.

    Raises:
        ValueError: it lies after the year 8999, or before the year 2.
    """
    if not in_calendar(moment):
        raise ValueError(f"the year {moment.year} is out of range")
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    beyond = moment.microsecond % 1000
    return moment.replace(microsecond=moment.microsecond - beyond) if beyond else moment


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _not_negative(span: timedelta) -> timedelta:
    if span < timedelta():
        raise ValueError("a duration is never negative")
    return span


Instant = Annotated[AwareDatetime, AfterValidator(to_instant)]
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    AfterValidator(_not_negative),
    PlainSerializer(exact_duration, when_used="json"),
]
"""Written as ``1h30m``: pydantic's own form counts years, which have no fixed length."""


class Model(BaseModel):
    """Frozen; refuses unknown fields; reads camelCase and snake_case; writes camelCase with ``by_alias=True``."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
    )
