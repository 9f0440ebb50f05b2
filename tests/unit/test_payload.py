"""What strangers send, checked by itself before it joins a batch."""

import json
from typing import Any

import bson
import pytest
from hypothesis import given, strategies as st

from service.errors import PayloadRefused
from service.payload import MAX_DEPTH, check_size, check_storable, encode, fingerprint, live_key, safe_text


def nested(levels: int, kind: type = dict) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = {"a": value} if kind is dict else [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        2**63 - 1,
        -(2**63),
        1.5,
        -0.0,
        "",
        "\0",
        "😀",
        [],
        {},
        {"": {"": [None]}},
        {"$function": {"body": "x"}, "a.b": 1, "$set": 2},
        {"$ref": "x", "$id": 1},
        nested(MAX_DEPTH),
        nested(MAX_DEPTH, list),
        list(range(100_000)),
    ],
)
def test_json_that_any_store_keeps_is_let_through(value: Any) -> None:
    check_storable(value, "taskBody")

    assert bson.encode({"body": value})


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        ({"n": 2**63}, "taskBody.n", "64 bits"),
        ({"n": [-(2**63) - 1]}, "taskBody.n", "64 bits"),
        ({"n": 10**5000}, "taskBody.n", "64 bits"),
        ({10**5000: 1}, "taskBody", "text key"),
        ({"a": {"b": [{"c": float("nan")}]}}, "taskBody.a.b.c", "JSON number"),
        (float("inf"), "taskBody", "JSON number"),
        (-float("inf"), "taskBody", "JSON number"),
        ({"s": "a\ud800"}, "taskBody.s", "surrogate"),
        ({"\udc80": 1}, "taskBody", "surrogate"),
        ({"a\0": 1}, "taskBody", "NUL"),
        ({5: 1}, "taskBody", "text key"),
        ({None: 1}, "taskBody", "text key"),
        (nested(MAX_DEPTH + 1), "taskBody", "64 levels"),
        (nested(100_000), "taskBody", "64 levels"),
        (nested(100_000, list), "taskBody", "64 levels"),
        ({"b": b"x"}, "taskBody.b", "bytes"),
        ({"t": (1, 2)}, "taskBody.t", "tuple"),
        ({"s": {1}}, "taskBody.s", "set"),
        (object(), "taskBody", "object"),
    ],
)
def test_anything_else_is_refused_by_its_path(value: Any, path: str, problem: str) -> None:
    with pytest.raises(PayloadRefused) as caught:
        check_storable(value, "taskBody")

    assert caught.value.field == path
    assert problem in str(caught.value)
    assert str(caught.value).encode()  # it can be logged and kept
    assert len(str(caught.value)) < 500


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(), children, max_size=5),
    max_leaves=30,
)


@given(json_values)
def test_what_is_let_through_can_be_kept_and_sent(value: Any) -> None:
    try:
        check_storable(value, "taskBody")
    except PayloadRefused:
        return

    assert json.loads(encode(value)) == value
    assert bson.encode({"body": value})


@given(
    st.recursive(
        st.text() | st.integers() | st.floats() | st.binary() | st.text(alphabet="\ud800a\0"),
        lambda children: st.lists(children) | st.dictionaries(st.text(alphabet="\ud800a\0$."), children),
    )
)
def test_nothing_is_let_through_that_cannot_be_kept(value: Any) -> None:
    try:
        check_storable(value, "taskBody")
    except PayloadRefused:
        return

    assert bson.encode({"body": value})
    assert encode(value)


def test_the_size_is_that_of_compact_json() -> None:
    check_size({"a": "é"}, "taskBody", 10)

    with pytest.raises(PayloadRefused, match="10 bytes.*larger than 9"):
        check_size({"a": "é"}, "taskBody", 9)


def test_a_fingerprint_is_that_of_type_and_body_whatever_the_order() -> None:
    body = {"a": 1, "b": {"c": 2, "d": [1, 2]}}

    assert fingerprint("t", body) == fingerprint("t", {"b": {"d": [1, 2], "c": 2}, "a": 1})
    others = [
        ("u", body),
        ("t", {**body, "a": 2}),
        ("t", {**body, "b": {"c": 2, "d": [2, 1]}}),
        ("t", {**body, "a": "1"}),
    ]
    assert len({fingerprint("t", body), *(fingerprint(kind, each) for kind, each in others)}) == 5


def test_a_live_key_is_by_name_or_by_body_or_none() -> None:
    assert live_key("t", {}, name="n", unique=False) == live_key("u", {"a": 1}, name="n", unique=True) == "name:n"
    assert live_key("t", {}, name=None, unique=False) is None
    by_body = live_key("t", {}, name=None, unique=True)
    assert by_body == f"body:{fingerprint('t', {})}"
    assert by_body != live_key("t", {"a": 1}, name=None, unique=True)


@pytest.mark.parametrize(("text", "safe"), [("plain", "plain"), ("é😀", "é😀"), ("a\udc80b", r"a\udc80b"), ("", "")])
def test_a_text_is_made_safe_by_escapes(text: str, safe: str) -> None:
    assert safe_text(text) == safe
