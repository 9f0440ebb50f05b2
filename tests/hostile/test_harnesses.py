"""What the fuzzer feeds is fed here too: its seeds, whole and broken, so that no harness rots."""

import pytest
from hypothesis import given, settings, strategies as st

from tests.hostile.harnesses import HARNESSES


@pytest.mark.parametrize("name", HARNESSES)
@settings(database=None, max_examples=60)
@given(data=st.data())
def test_what_a_stranger_made_of_a_good_file_is_read_or_refused(name: str, data: st.DataObject) -> None:
    harness = HARNESSES[name]
    seed = bytearray(data.draw(st.sampled_from(harness.seeds)))
    for at, bits in data.draw(st.lists(st.tuples(st.integers(0, len(seed) - 1), st.integers(0, 255)), max_size=4)):
        seed[at] ^= bits
    cut = data.draw(st.integers(0, len(seed)))
    harness.feed(bytes(seed[: len(seed) - cut]))
    harness.feed(bytes(seed))
