"""Prompts: the template's own ids where it has them, plain text everywhere else."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime import BundleError, InputError
from rar.runtime.rank.mllm.modes import ask_choice, ask_likelihood, ask_list, rotations
from rar.runtime.rank.mllm.prompt import LETTERS, MODES, Mode, Prompt, clean, list_names
from rar.runtime.rank.mllm.tree import PICTURE

TOKENS = ["<|im_start|>", "<|im_end|>", "<image>", "</s>", "<s>", "<unk>", "<tool_call>", "<|image_pad|>", "<0x0A>"]

labels = st.lists(
    st.text(max_size=20) | st.sampled_from([*TOKENS, "Granny Smith", "{candidates}", "{k}", "a\nb", "x" * 300, ""]),
    min_size=1,
    max_size=6,
)
mode_names = st.sampled_from(list(MODES))


def settings(tokenizer: tokenizers.Tokenizer, **changes: Any) -> dict[str, Any]:
    start, end = (tokenizer.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>"))
    return {
        "template": [
            {"ids": [start]}, "user\n", {"slot": "instruction"}, "\n", {"slot": "image"}, "\n", {"slot": "question"},
            {"ids": [end]}, "\n", {"ids": [start]}, "assistant\n",
        ],
        "stop_ids": [end],
        "letters": {letter: tokenizer.encode(letter, add_special_tokens=False).ids[-1] for letter in LETTERS},
        "image_tokens": 4,
        "context": 2048,
        "modes": MODES,
    } | changes  # fmt: skip


def byte_bpe() -> tokenizers.Tokenizer:
    from tiny_mllm import byte_level

    tokenizer: tokenizers.Tokenizer = byte_level(["<|im_start|>", "<|im_end|>", "<image>", "</s>"])
    tokenizer.add_tokens([tokenizers.AddedToken("<tool_call>", special=False, normalized=False)])
    return tokenizer


def llama_bpe() -> tokenizers.Tokenizer:
    from tiny_mllm import sentencepiece_like

    tokenizer: tokenizers.Tokenizer = sentencepiece_like("first")
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<image>"])
    return tokenizer


@pytest.fixture(scope="module", params=[byte_bpe, llama_bpe])
def prompt(request: pytest.FixtureRequest) -> Prompt:
    tokenizer = request.param()
    return Prompt.from_dict(settings(tokenizer), tokenizer)


def special(prompt: Prompt) -> set[int]:
    added = prompt.text.tokenizer.get_added_tokens_decoder()
    return {i for i, token in added.items() if token.content != "<unk>"}


class TestNamesAreData:
    @given(labels, mode_names)
    def test_no_name_makes_a_special_token(self, prompt: Prompt, names: list[str], mode: Mode) -> None:
        plain = [token for token in prompt.tail(mode, ["a"] * len(names)) if token in special(prompt)]
        assert [token for token in prompt.tail(mode, names) if token in special(prompt)] == plain
        _, answers = prompt.answers(mode, names, [clean(name) for name in names])
        for answer in answers:
            assert answer[-1] == prompt.stop_ids[0]
            assert not special(prompt) & set(answer[:-1])

    @given(labels)
    def test_every_name_stands_in_the_list_and_can_be_read_back(self, names: list[str]) -> None:
        assert json.loads(list_names("generate", names)) == [clean(name) for name in names]
        lines = list_names("choice", names).split("\n")
        assert lines == [f"{letter}. {clean(name)}" for letter, name in zip(LETTERS, names, strict=False)]

    @given(st.text())
    def test_cleaning_takes_line_ends_and_control_characters_only(self, name: str) -> None:
        cleaned = clean(name)
        assert len(cleaned) == len(name)
        assert len(cleaned.splitlines()) <= 1
        cleaned.encode()
        for before, after in zip(name, cleaned, strict=True):
            assert before == after or (after == " " and not before.isprintable())

    @pytest.mark.parametrize("name", ["🦆 烤鸭", 'a "b", [c]', "{k} {candidates}", "O'Neill", "x" * 300])
    def test_what_is_printable_stays(self, name: str) -> None:
        assert clean(name) == name

    @given(labels, mode_names)
    def test_names_change_the_tail_only(self, prompt: Prompt, names: list[str], mode: Mode) -> None:
        assert PICTURE not in prompt.head(mode)
        assert prompt.picture(mode) == [PICTURE] * 4
        assert PICTURE not in prompt.tail(mode, names)

    def test_braces_in_a_name_are_not_replaced(self, prompt: Prompt) -> None:
        text = prompt.decode(prompt.tail("generate", ["{k}", "{candidates}", "cat"]))
        assert text.count("{candidates}") == 1
        assert "provided 3 categories" in text
        assert '"{k}"' in text

    def test_letters_of_all_rotations(self, prompt: Prompt) -> None:
        names = ["a", "b", "c"]
        question = ask_choice(prompt, [[names[i] for i in order] for order in rotations(3)])
        assert rotations(3).tolist() == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
        assert len(question.tree.places) == 3
        assert list(question.targets) == [[prompt.letters[letter] for letter in "ABC"]] * 3


class TestAnswers:
    @given(labels)
    def test_prompt_and_answer_are_tokenised_as_one_text(self, prompt: Prompt, names: list[str]) -> None:
        tail, answers = prompt.answers("likelihood", names, [clean(name) for name in names])
        last = prompt.template[-1]
        for name, answer in zip(names, answers, strict=True):
            whole = [*tail, *answer][:-1]
            (joint,) = prompt.text([f"{last}{clean(name)}"])
            assert whole[-len(joint) :] == joint

    @given(labels)
    def test_every_token_of_a_name_and_the_end_are_looked_up(self, prompt: Prompt, names: list[str]) -> None:
        question = ask_likelihood(prompt, names)
        _, answers = prompt.answers("likelihood", names, [clean(name) for name in names])
        assert list(question.targets) == answers
        tree = question.tree
        for rows, targets in zip(question.rows, question.targets, strict=True):
            assert len(rows) == len(targets)
            for row, target in zip(rows[1:], targets, strict=False):
                segment, offset = tree.places[row]
                assert tree.segments[segment].ids[offset] == target

    def test_a_lead_stands_between_prompt_and_answer(self) -> None:
        tokenizer = byte_bpe()
        changed = settings(tokenizer, lead=" ")
        changed["template"][-1] = "Assistant:"
        prompt = Prompt.from_dict(changed, tokenizer)
        tail, (answer,) = prompt.answers("likelihood", ["cat"], ["cat"])
        assert prompt.decode([*tail, *answer]).endswith("Assistant: cat")
        assert tail == prompt.tail("likelihood", ["cat"])

    def test_the_limit_of_a_list_leaves_room_for_other_quotes(self, prompt: Prompt) -> None:
        names = ["Granny Smith", "O'Neill", "x" * 300]
        _, limit = ask_list(prompt, names)
        for text in (json.dumps(names), str(names), json.dumps(names, separators=(" , ", ":"))):
            assert len(prompt.text([text])[0]) < limit


class TestSlots:
    def test_the_picture_may_come_first(self) -> None:
        tokenizer = byte_bpe()
        template = [{"ids": [0]}, "USER: ", {"slot": "image"}, "\n", {"slot": "instruction"}, " ", {"slot": "question"}]
        prompt = Prompt.from_dict(settings(tokenizer, template=template), tokenizer)
        assert prompt.decode(prompt.head("choice")) == "USER: "
        assert MODES["choice"]["instruction"] in prompt.decode(prompt.tail("choice", ["a"]))

    def test_a_picture_in_several_parts(self) -> None:
        tokenizer = byte_bpe()
        parts = [{"slot": "image"}, {"ids": [3]}, {"slot": "image"}]
        template = [{"ids": [0]}, *parts, {"slot": "question"}]
        prompt = Prompt.from_dict(settings(tokenizer, template=template), tokenizer)
        assert prompt.head("choice") == [0]
        assert prompt.picture("choice") == [PICTURE, PICTURE, 3, PICTURE, PICTURE]

    def test_the_answer_s_beginning_follows_the_template(self) -> None:
        tokenizer = byte_bpe()
        modes = {"choice": {"instruction": "", "question": "{candidates}", "answer": "The letter is"}}
        prompt = Prompt.from_dict(settings(tokenizer, modes=modes), tokenizer)
        assert prompt.decode(prompt.tail("choice", ["a"])).endswith("assistant\nThe letter is")


class TestMalformed:
    @pytest.mark.parametrize(
        "changes",
        [
            {"template": []},
            {"template": [{"slot": "question"}]},
            {"template": [{"slot": "question"}, {"slot": "image"}]},
            {"template": [{"slot": "image"}, {"slot": "question"}, {"slot": "question"}]},
            {"template": [{"slot": "image"}, {"slot": "video"}, {"slot": "question"}]},
            {"template": [{"slot": "image"}, {"slot": "question"}, 7]},
            {"template": [{"slot": "image"}, {"slot": "question"}, {"ids": ["x"]}]},
            {"template": None},
            {"stop_ids": []},
            {"stop_ids": None},
            {"letters": None},
            {"letters": {"A": None}},
            {"image_tokens": 0},
            {"image_tokens": "many"},
            {"context": None},
            {"position_dims": 2},
            {"image_positions": {"grid": [3, 3]}, "position_dims": 3},
            {"image_positions": {"grid": [4]}, "position_dims": 3},
            {"modes": None},
            {"modes": {"choice": None}},
        ],
        ids=str,
    )
    def test_settings(self, changes: dict[str, Any]) -> None:
        tokenizer = byte_bpe()
        with pytest.raises(BundleError, match=r"prompt\.json: malformed .*export the model again"):
            Prompt.from_dict(settings(tokenizer, **changes), tokenizer)

    @pytest.mark.parametrize("content", [None, [], 3, "x", {}])
    def test_other_json(self, content: Any) -> None:
        with pytest.raises(BundleError, match=r"prompt\.json: malformed"):
            Prompt.from_dict(content, byte_bpe())

    def test_a_mode_that_is_not_there(self, prompt: Prompt) -> None:
        only = replace(prompt, modes={"likelihood": prompt.modes["likelihood"]})
        with pytest.raises(InputError, match="no mode 'generate'; choose likelihood"):
            only.head("generate")

    def test_the_context(self, prompt: Prompt) -> None:
        prompt.check(2048)
        with pytest.raises(InputError, match="takes 2049 tokens, but the model's context holds 2048; ask for fewer"):
            prompt.check(2049)


def test_the_modes_are_ready_for_json_and_hold_all_texts(tmp_path: Path, writable: Callable[..., Path]) -> None:
    assert json.loads(json.dumps({mode: dict(texts) for mode, texts in MODES.items()})) == MODES
    assert all(set(texts) == {"instruction", "question", "answer"} for texts in MODES.values())
    assert all("{candidates}" in texts["question"] for texts in MODES.values())
