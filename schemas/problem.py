"""Why a request was refused: problem details as RFC 9457 has them."""

from pydantic import Field

from schemas.base import Model

MEDIA_TYPE = "application/problem+json"


class WrongField(Model):
    """One value of a request that cannot be."""

    field: str = Field(description="Where it is: `taskBody.rows`, `query.limit`, `header.idempotency-key`.")
    problem: str = Field(description="What is wrong with it.")
    value: str | None = Field(None, description="What was sent, cut after 120 characters.")
    fix: str | None = Field(None, description="What to send instead.")
    index: int | None = Field(None, description="In a list of schedules: which of them, from 0.")
    id: str | None = Field(None, description="The id of that one.")
    line: int | None = Field(None, description="In a schedules file that is no JSON: where, from 1.")


class Problem(Model):
    """The body of every answer of 400 and above."""

    type: str = Field("about:blank", description="Always `about:blank`: the status says what kind of problem it is.")
    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What happened, and what to do.")
    instance: str | None = Field(None, description="The path that was asked for.")
    errors: list[WrongField] | None = Field(None, description="With 422: each wrong value.")
    reference: str | None = Field(None, description="With 500: the `reference` of the log line that says more.")
