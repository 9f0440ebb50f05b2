"""How long a failed task waits."""

import random
from datetime import timedelta

import pytest
from hypothesis import given, strategies as st

from service.retry import RetryPolicy

SECOND = timedelta(seconds=1)


def test_without_jitter_the_wait_doubles_up_to_the_cap() -> None:
    policy = RetryPolicy(base=2 * SECOND, cap=20 * SECOND, jitter=False)

    waits = [policy.delay(count, random.Random(0)) / SECOND for count in range(6)]

    assert waits == [2, 4, 8, 16, 20, 20]


def test_with_jitter_the_wait_is_anything_up_to_that() -> None:
    policy, rng = RetryPolicy(base=8 * SECOND), random.Random(1)

    waits = [policy.delay(0, rng) for _ in range(1000)]

    assert timedelta() <= min(waits) < SECOND
    assert 7 * SECOND < max(waits) <= 8 * SECOND


def test_given_delays_are_used_as_they_are_and_the_last_repeats() -> None:
    policy = RetryPolicy(delays=(SECOND, 5 * SECOND))

    assert [policy.delay(count, random.Random(0)) for count in range(4)] == [SECOND, *[5 * SECOND] * 3]


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 1e10, 1e300])
@pytest.mark.parametrize("count", [0, 63, 5000, 10**9])
def test_no_count_of_failures_is_too_large(factor: float, count: int) -> None:
    policy = RetryPolicy(factor=factor, jitter=False)

    assert timedelta() <= policy.delay(count, random.Random(0)) <= policy.cap


def test_a_base_of_nothing_never_waits() -> None:
    assert RetryPolicy(base=timedelta()).delay(5000, random.Random(0)) == timedelta()


def test_a_base_beyond_the_cap_is_cut_too() -> None:
    assert RetryPolicy(base=timedelta(days=1), jitter=False).delay(0, random.Random(0)) == timedelta(hours=1)


def test_the_longest_cap_does_not_overflow() -> None:
    assert RetryPolicy(cap=timedelta.max, jitter=False).bound(10_000) <= timedelta.max


@given(count=st.integers(0, 2000), seed=st.integers(), jitter=st.booleans())
def test_a_wait_is_never_negative_and_never_beyond_its_bound(count: int, seed: int, jitter: bool) -> None:
    policy = RetryPolicy(jitter=jitter)

    assert timedelta() <= policy.delay(count, random.Random(seed)) <= policy.bound(count) <= policy.cap
