"""One walk says what differs between two tables, whoever asks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.common.differences import differences, listed, phrases, shown

LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2)
TABLES = st.recursive(
    st.dictionaries(st.sampled_from("pqrs"), LEAVES | st.lists(LEAVES, max_size=2), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("pqrs"), LEAVES | inner, max_size=3),
    max_leaves=12,
)


def test_every_leaf_is_named_with_its_path_in_order_and_absence_is_none() -> None:
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"e": 5, "a": {"b": 1, "c": 4}}
    found = differences(old, new)
    assert list(found.items()) == [("a.c", (2, 4)), ("d", (3, None)), ("e", (None, 5))]
    assert phrases(found) == ["a.c: 2 -> 4", "d: 3 -> None", "e: None -> 5"]
    assert phrases(found, "{key} {new}, was {old}")[0] == "a.c 4, was 2"
    assert differences(old, old) == {} and phrases({}) == []


def test_leaves_are_found_in_one_table_alone() -> None:
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}}) == {
        "a.c": (2, 4),
        "d": (3, None),
    }


def test_a_tuple_is_the_list_that_json_makes_of_it() -> None:
    assert differences({"a": (1.0, ({"b": (2,)},))}, {"a": [1.0, [{"b": [2]}]]}) == {}
    assert differences({"a": (1.0, 2.0)}, {"a": [2.0, 1.0]}) == {"a": ((1.0, 2.0), [2.0, 1.0])}
    assert differences({"a": {}}, {"a": None}) == {"a": ({}, None)}


@given(TABLES, TABLES)
def test_the_other_way_round_it_is_the_same_leaves(one: dict, other: dict) -> None:
    found = differences(one, other)
    assert differences(other, one) == {key: (new, old) for key, (old, new) in found.items()}
    assert list(found) == sorted(found)
    assert differences(one, one) == {}


def test_a_long_list_is_cut_and_counted() -> None:
    assert listed(["a", "b"], 2) == "a; b"
    assert listed(["a", "b", "c", "d"], 2, ", ") == "a, b and 2 more"
    assert listed([str(number) for number in range(1500)], 1) == "0 and 1,499 more"
    assert listed([]) == ""


def test_what_is_no_string_is_shown_as_json() -> None:
    assert (shown("a b"), shown((1.0, 2)), shown(None)) == ("a b", "[1.0,2]", "null")
