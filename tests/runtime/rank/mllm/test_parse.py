"""List answers, as models write them and as nobody would."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rar.runtime.rank.mllm.parse import is_closed, parse_list
from rar.runtime.rank.mllm.prompt import clean, list_names

NAMES = ["Granny Smith", "bird's nest", "oats, rolled", "747-400 [ER]", 'the "big" one', "CAT", "cat", "Dog"]

names = st.lists(
    st.text(min_size=0, max_size=12)
    | st.text("ab'\",[]\\ \n{}", max_size=8)
    | st.sampled_from([*NAMES, "</s>", "<image>", "", " "]),
    min_size=1,
    max_size=6,
)


def check(places: list[int] | None, candidates: list[str]) -> None:
    """Nothing invented, nothing twice."""
    if places is not None:
        assert places
        assert len(set(places)) == len(places)
        assert all(0 <= place < len(candidates) for place in places)


class TestAnyText:
    @given(st.text(), names)
    @example("['" * 50, ["'", "[", "]", ","])
    @example("[" * 3000, ["a"])
    @example('["\\ud83e\\udd86", "\\u"]', ["🦆", "\\u"])
    def test_never_an_exception_never_an_invention(self, text: str, candidates: list[str]) -> None:
        check(parse_list(text, candidates), candidates)
        is_closed(text, candidates)

    @given(st.text("[]'\",\\ abu0`\u201c\u201d\n", max_size=60), names)
    def test_text_that_looks_like_lists(self, text: str, candidates: list[str]) -> None:
        check(parse_list(text, candidates), candidates)
        check(parse_list(f"[{text}", candidates), candidates)
        is_closed(f"[{text}", candidates)

    @given(names, st.data())
    def test_pieces_of_candidates_in_any_quotes(self, candidates: list[str], data: st.DataObject) -> None:
        piece = st.sampled_from([*map(clean, candidates), "x"]).flatmap(
            lambda name: st.sampled_from([name, f"'{name}'", json.dumps(name), repr(name), f"`{name}`", f'"{name}'])
        )
        text = data.draw(st.lists(piece, max_size=8).map(", ".join))
        check(parse_list(f"[{text}]", candidates), candidates)

    def test_long_answers_are_read_in_no_time(self) -> None:
        for text in ("[" + "'x', " * 3000, "[" + "\\" * 20_000, "[" + "'" * 20_000, "[" + "a'" * 10_000, "[]" * 10_000):
            assert parse_list(text, NAMES) is None


class TestOwnFormat:
    @given(names, st.randoms())
    def test_the_json_list_of_any_order_is_read_back(self, candidates: list[str], chance: object) -> None:
        order = list(range(len(candidates)))
        chance.shuffle(order)  # type: ignore[attr-defined]
        found = parse_list(list_names("generate", [candidates[i] for i in order]), candidates)
        assert found is not None
        assert [clean(candidates[i]) for i in found] == [clean(candidates[i]) for i in order]

    @given(names)
    def test_a_python_list_is_read_back(self, candidates: list[str]) -> None:
        cleaned = [clean(name) for name in candidates]
        found = parse_list(str(cleaned), candidates) or []
        # repr writes some characters as \xNN, which models do not.
        plain = [name for name in cleaned if name.isprintable()]
        assert [clean(candidates[i]) for i in found if cleaned[i] in plain] == plain

    @given(names, st.integers(0, 200))
    def test_a_cut_off_list_gives_a_beginning_of_the_order(self, candidates: list[str], end: int) -> None:
        whole = [clean(name) for name in candidates]
        found = parse_list(list_names("generate", candidates)[:end], candidates) or []
        assert [clean(candidates[i]) for i in found] == whole[: len(found)]

    @given(names)
    def test_a_list_is_closed_at_its_end_and_not_before(self, candidates: list[str]) -> None:
        text = list_names("generate", candidates)
        assert is_closed(text, candidates)
        assert not any(is_closed(text[:end], candidates) for end in range(len(text)))


class TestWritten:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("['Dog', 'CAT']", [7, 5]),
            ('["Dog", "CAT"]', [7, 5]),
            ("[Dog, CAT]", [7, 5]),
            ("[`Dog`, \u201cCAT\u201d, \u2018cat\u2019]", [7, 5, 6]),
            ("Sure! Here is the list:\n['Dog',\n 'CAT']\nI hope this helps [really].", [7, 5]),
            ("As [asked]: ['Dog']", [7]),
            ("[['Dog', 'CAT']]", [7, 5]),
            ("['bird's nest', 'Dog']", [1, 7]),
            ("[\"bird's nest\", 'Dog']", [1, 7]),
            ("['bird\\'s nest', 'Dog']", [1, 7]),
            ("['oats, rolled', 'Dog']", [2, 7]),
            ("[oats, rolled, Dog]", [2, 7]),
            ("['747-400 [ER]', 'Dog']", [3, 7]),
            ("[747-400 [ER], Dog]", [3, 7]),
            ('["the "big" one", "Dog"]', [4, 7]),
            ('["the \\"big\\" one", "Dog"]', [4, 7]),
            ("['granny smith', 'GRANNY SMITH', 'Dog']", [0, 7]),
            ("['Dog', 'Dog', 'Dog', 'CAT']", [7, 5]),
            ("['horse', 'Dog', 'a Dog', 'Dogs']", [7]),
            ("['horse, Dog', 'CAT']", [5]),
            ("['Dog', 'CA", [7]),
            ("['Dog'", None),
            ("['Dog',", [7]),
            ("[' Dog ', ' CAT']", [7, 5]),
            ("[1, None, 'Dog', {'a': 'b'}]", [7]),
        ],
    )
    def test_answer(self, text: str, expected: list[int] | None) -> None:
        assert parse_list(text, NAMES) == expected

    @pytest.mark.parametrize("text", ["", "Dog", "Dog, CAT", "[]", "[horse]", "{'Dog'}", "Cat]", "['Cat']", "[\n\n"])
    def test_nothing_usable(self, text: str) -> None:
        assert parse_list(text, NAMES) is None

    def test_case_decides_where_names_differ_by_it_alone(self) -> None:
        assert parse_list("['cat', 'CAT']", NAMES) == [6, 5]
        assert parse_list("['Cat']", NAMES) is None

    def test_of_two_names_that_read_alike_each_is_found_once(self) -> None:
        assert parse_list("['a b', 'a b', 'a b']", ["a\nb", "c", "a b"]) == [0, 2]

    def test_a_longer_name_is_not_its_beginning(self) -> None:
        candidates = ["apple", "apple, golden", "apple pie"]
        assert parse_list("['apple pie', 'apple, golden', 'apple']", candidates) == [2, 1, 0]
        assert parse_list("[apple pie, apple, golden, apple]", candidates) == [2, 1, 0]

    def test_unicode_escapes(self) -> None:
        assert parse_list('["cr\\u00e8me", "\\ud83e\\udd86"]', ["🦆", "crème"]) == [1, 0]
