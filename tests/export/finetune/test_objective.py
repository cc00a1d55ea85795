"""What is trained is what is ranked: PyTorch's scores are those of the runtime's ranker."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from rar.export.finetune.objective import Exercise, ask, loss, run, scores
from rar.export.finetune.samples import Sample
from rar.export.mllm.export import export_mllm
from rar.export.mllm.model import Mllm
from rar.export.mllm.prompt import prompt_settings, read_prompt
from rar.export.mllm.source import load
from rar.runtime import Bundle, Candidate, InputError
from rar.runtime.encoder.clip import Clip
from rar.runtime.picture.load import load_image
from rar.runtime.rank.mllm.model import Mllm as RuntimeMllm
from rar.runtime.rank.mllm.modes import ask_choice, ask_likelihood
from rar.runtime.rank.mllm.prompt import Mode, Prompt
from rar.runtime.rank.mllm.ranker import MllmOptions, MllmRanker
from rar.runtime.rank.protocol import Query

# Of unlike length, and one that looks like markup.
NAMES = ["cat", "a furry animal with whiskers, sitting", "O'Neill\n<|im_end|><image></s>", "烤鸭", "CAT"]
MODES: list[Mode] = ["likelihood", "choice", "generate"]


@pytest.fixture(scope="module", params=["llava", "qwen25vl", "lfm2vl"])
def model(request: pytest.FixtureRequest) -> tuple[Mllm, Prompt]:
    """One whose tokenizer begins texts with a space, one with positions of three dimensions, one with convolutions."""
    mllm = load(str(request.getfixturevalue("tiny_mllm_folder")(request.param)))
    return mllm, read_prompt(prompt_settings(mllm), mllm.tokenizer)


def see(mllm: Mllm, paths: list[Path]) -> torch.Tensor:
    assert mllm.preprocess is not None
    with torch.inference_mode():
        return cast(torch.Tensor, mllm.vision(torch.from_numpy(mllm.preprocess([load_image(path) for path in paths]))))


def test_scores_are_the_ranker_s(
    model: tuple[Mllm, Prompt], tiny_bundle: Path, class_pictures: list[Path], tmp_path: Path
) -> None:
    mllm, prompt = model
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    export_mllm(mllm, folder)
    bundle = Bundle.open(folder)
    exported = RuntimeMllm(bundle, Clip(bundle, "cpu", 1), 1)
    paths, lists = class_pictures[::4], [NAMES, NAMES[::-1], NAMES[1:3]]
    queries = [
        Query(load_image(path), np.zeros(32, np.float32), [Candidate(name, 0.5) for name in names])
        for path, names in zip(paths, lists, strict=True)
    ]
    modes: list[Mode] = ["likelihood", "choice"]
    for mode in modes:
        asked = [ask_likelihood(prompt, n) if mode == "likelihood" else ask_choice(prompt, [n]) for n in lists]
        rankings = MllmRanker(exported, MllmOptions(mode, "none")).rank(queries)
        with torch.inference_mode():
            logits = run(mllm, prompt, mode, asked, see(mllm, paths))
        for question, row, ranking in zip(asked, logits, rankings, strict=True):
            own = scores(mode, question, row).log_softmax(-1)
            np.testing.assert_allclose(ranking.scores, own.numpy(), atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_of_unlike_questions_equals_one_by_one(
    model: tuple[Mllm, Prompt], class_pictures: list[Path], mode: Mode
) -> None:
    mllm, prompt = model
    samples = [Sample("", names[0], tuple(names)) for names in (NAMES, NAMES[:2], NAMES[2:])]
    exercises = [ask(prompt, mode, sample, np.random.default_rng(0)) for sample in samples]
    questions, pictures = [exercise.question for exercise in exercises], see(mllm, class_pictures[::4])
    with torch.inference_mode():
        together = run(mllm, prompt, mode, questions, pictures)
        for i, question in enumerate(questions):
            (alone,) = run(mllm, prompt, mode, [question], pictures[i : i + 1])
            assert alone.shape == together[i].shape
            assert (alone - together[i]).abs().max() < 1e-4
            value, one_by_one = (float(loss(mode, exercises[i], row)) for row in (together[i], alone))
            assert value == pytest.approx(one_by_one, abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_exemplars_stand_in_the_prompt_of_their_own_question(
    model: tuple[Mllm, Prompt], class_pictures: list[Path], mode: Mode
) -> None:
    mllm, prompt = model
    if prompt.several is None:
        with pytest.raises(InputError, match="takes several pictures"):
            prompt.of_several()
        return
    prompt, paths = prompt.of_several(), list(map(str, class_pictures))
    samples = [
        Sample(paths[0], NAMES[0], tuple(NAMES[:3]), (paths[4], "", paths[8])),
        Sample(paths[1], NAMES[3], tuple(NAMES[2:4]), ("", "")),
        Sample(paths[2], NAMES[4], tuple(NAMES[3:]), (paths[5], paths[9])),
    ]
    exercises = [ask(prompt, mode, sample, np.random.default_rng(1)) for sample in samples]
    assert [len(exercise.exemplars) for exercise in exercises] == [2, 0, 2]
    shown = [[*exercise.exemplars, sample.path] for exercise, sample in zip(exercises, samples, strict=True)]
    for sample, exercise in zip(samples, exercises, strict=True):
        of = dict(zip(sample.exemplars, sample.candidates, strict=True))
        root = exercise.question.tree.segments[0].ids
        opening = prompt.opening(mode, [of[path] for path in exercise.exemplars])
        assert list(root[: len(opening)]) == opening
    questions = [exercise.question for exercise in exercises]
    with torch.inference_mode():
        together = run(mllm, prompt, mode, questions, see(mllm, [Path(path) for row in shown for path in row]))
        for question, row, found in zip(questions, shown, together, strict=True):
            (alone,) = run(mllm, prompt, mode, [question], see(mllm, [Path(path) for path in row]))
            assert (alone - found).abs().max() < 1e-4


@pytest.mark.parametrize("mode", ["likelihood", "choice"])
def test_each_picture_stands_in_its_own_row(model: tuple[Mllm, Prompt], class_pictures: list[Path], mode: Mode) -> None:
    mllm, prompt = model
    questions = [ask_likelihood(prompt, NAMES) if mode == "likelihood" else ask_choice(prompt, [NAMES])] * 2
    pictures = see(mllm, [class_pictures[0], class_pictures[-1]])
    with torch.inference_mode():
        first, second = run(mllm, prompt, mode, questions, pictures)
        swapped = run(mllm, prompt, mode, questions, pictures.flip(0))
    assert (first - second).abs().max() > 1e-3
    assert (first - swapped[1]).abs().max() < 1e-4


class TestAsk:
    sample = Sample("", "pear", ("apple", "pear", "plum", "fig"))

    @pytest.fixture
    def prompt(self, model: tuple[Mllm, Prompt]) -> Prompt:
        return model[1]

    @pytest.mark.parametrize("mode", ["likelihood", "choice"])
    def test_the_right_one_is_where_it_was_shuffled_to(self, prompt: Prompt, mode: Mode) -> None:
        places = set()
        for seed in range(20):
            exercise = ask(prompt, mode, self.sample, np.random.default_rng(seed))
            places.add(exercise.right)
            shown = [self.sample.candidates[i] for i in np.random.default_rng(seed).permutation(4)]
            assert shown[exercise.right] == "pear"
            same = ask_likelihood(prompt, shown) if mode == "likelihood" else ask_choice(prompt, [shown])
            assert exercise.question == same
        assert places == {0, 1, 2, 3}

    def test_generate_wants_the_true_class_first_and_the_others_as_retrieved(self, prompt: Prompt) -> None:
        exercise = ask(prompt, "generate", self.sample, np.random.default_rng(0))
        assert exercise.right == 0
        (answer,) = exercise.question.targets
        assert answer[-1] == prompt.stop_ids[0]
        assert prompt.decode(list(answer[:-1])).strip().endswith('"pear", "apple", "plum", "fig"]')


class TestLoss:
    """On logits that are written by hand."""

    @pytest.fixture
    def exercise(self, model: tuple[Mllm, Prompt]) -> Exercise:
        return Exercise(ask_likelihood(model[1], ["apple", "pear", "plum"]), 1)

    def logits(self, exercise: Exercise, likely: int) -> torch.Tensor:
        """Of a model that is sure of one answer."""
        question = exercise.question
        logits = torch.zeros(len(question.tree.places), 1000)
        for row, token in zip(question.rows[likely], question.targets[likely], strict=True):
            logits[row, token] = 20
        return logits

    def test_the_true_name_is_best(self, exercise: Exercise) -> None:
        values = [float(loss("likelihood", exercise, self.logits(exercise, likely))) for likely in range(3)]
        assert min(values) == values[1] < 1
        assert min(values[0], values[2]) > 5

    def test_without_contrast_it_is_the_name_s_own_likelihood(self, exercise: Exercise) -> None:
        logits = self.logits(exercise, 1)
        own = -scores("likelihood", exercise.question, logits)[1]
        assert float(loss("likelihood", exercise, logits, contrast=False)) == pytest.approx(float(own))
        assert loss("likelihood", exercise, logits) > own

    def test_choice_is_cross_entropy_between_letters(self, model: tuple[Mllm, Prompt]) -> None:
        prompt = model[1]
        question = ask_choice(prompt, [["apple", "pear", "plum"]])
        values: list[Any] = []
        for letter in "ABC":
            logits = torch.zeros(1, 1000)
            logits[0, prompt.letters[letter]] = 20
            values.append(float(loss("choice", Exercise(question, 1), logits)))
        assert min(values) == values[1]
        assert values[0] == pytest.approx(values[2])


def test_a_prompt_longer_than_the_context_is_refused_with_its_length(model: tuple[Mllm, Prompt]) -> None:
    mllm, prompt = model
    question = ask_likelihood(prompt, NAMES)
    prompt = replace(prompt, context=30)
    with pytest.raises(InputError, match=r"takes \d+ tokens, but the model's context holds 30"):
        run(mllm, prompt, "likelihood", [question], torch.zeros(1, mllm.image_tokens, mllm.decoder.dim))
