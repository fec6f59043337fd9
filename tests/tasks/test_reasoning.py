"""Reasoning problems as rows of tokens, and the decoder that learns them."""

import re
import sys

import pytest
import torch

from dsenv.task_kinds.language import Language
from dsenv.tasks.reasoning import (
    ALPHABET,
    GENERATORS,
    LENGTH,
    PROMPT,
    VOCABULARY,
    answers,
    encoded,
    problems,
    reasoning,
)

SMALL = {"train": 60, "validation": 20, "test": 40}


@pytest.fixture(scope="module")
def known():
    pytest.importorskip("reasoning_gym", reason="needs reasoning-gym: pip install reasoning-gym")
    return problems(**SMALL)


@pytest.fixture(scope="module")
def data(known):
    return reasoning(**SMALL)


def rebuilt(problem):
    """Question and answer of reasoning-gym, in small letters, from what stands in the row alone."""
    core = problem.prompt.removesuffix("=")
    if core.startswith("~"):
        return f"spell this word backward (example: sun -> nus): {core[1:]}", problem.answer
    if core[1] == ":":
        return f'how many times does the letter "{core[0]}" appear in the text: "{core[2:]}"?', problem.answer
    if core[0] in "<>":
        order = "ascending" if core[0] == "<" else "descending"
        numbers = ", ".join(f"{digit}.0" for digit in core[1:])
        return f"sort these numbers in {order} order: {numbers}\n", str([f"{d}.0" for d in problem.answer])
    if core.startswith("%"):
        numbers = core[1:].replace(",", ", ")
        return f"find the greatest common divisor (gcd) of these numbers: {numbers}.", problem.answer
    spaced = re.sub(r"([+-])", r" \1 ", core)
    return f"state the final answer to the following arithmetic problem: {spaced} =", problem.answer


def test_a_question_and_its_answer_follow_from_the_row(known):
    assert {problem.generator for problem in known} == set(GENERATORS)
    for problem in known:
        question, answer = rebuilt(problem)
        assert problem.entry["question"].lower().startswith(question), problem
        assert answer == problem.entry["answer"].lower()
        assert problem.score(problem.answer) == 1.0
        assert problem.score("no") < 1.0


def test_levels_get_harder_and_have_equal_shares(known):
    of = {(p.generator, p.level): p for p in known}
    assert len(of) == sum(len(how.levels) for how in GENERATORS.values()) == 13
    counts = [sum((p.generator, p.level) == pair for p in known) for pair in of]
    assert max(counts) - min(counts) <= 1
    assert len(of["spell_backward", 1].answer) == 3 and len(of["spell_backward", 3].answer) == 6
    assert len(of["number_sorting", 1].answer) == 2 and len(of["number_sorting", 3].answer) == 4
    easy = problems(["chain_sum", "gcd"], [1], 30, 10, 10)
    assert {(p.generator, p.level) for p in easy} == {("chain_sum", 1), ("gcd", 1)}


def test_rows_hold_prompt_and_answer_in_their_places(known, data):
    assert isinstance(data.kind, Language) and data.kind.outputs == VOCABULARY < 64 and LENGTH <= 64
    assert data.sample_shape == (LENGTH,)
    for split in data.splits().values():
        for tokens, targets, place in zip(split.images, split.labels, split.source[1], strict=True):
            problem = known[int(place)]
            text = "".join(ALPHABET[t - 1] for t in tokens.tolist() if t)
            assert (text + "$").startswith(problem.prompt + problem.answer + "$")
            asked = targets[targets >= 0]
            assert torch.equal(asked, encoded(problem.answer + "$"))
            assert (targets[: PROMPT - 1] == -100).all() and targets[PROMPT - 1] >= 0
            assert int(tokens[PROMPT - 1]) == ALPHABET.index("=") + 1


def test_no_problem_is_there_twice_and_one_seed_gives_one_data_set(known, data):
    assert len({problem.prompt for problem in known}) == len(known) == sum(SMALL.values())
    again, other = reasoning(**SMALL), reasoning(**SMALL, seed=1)
    assert torch.equal(data.train.images, again.train.images)
    assert torch.equal(data.test.labels, again.test.labels)
    assert not torch.equal(data.train.images, other.train.images)


class Table(torch.nn.Module):
    """Answers a row by heart, by its prompt; `slip` of the prompts with a digit too many at the end."""

    def __init__(self, data, slip):
        super().__init__()
        self.rows = {}
        for number, (tokens, targets) in enumerate(zip(data.test.images, data.test.labels, strict=True)):
            said = targets.clone()
            if number % 3 < slip:
                where = int((said >= 0).nonzero()[-1]) - number % 2
                said[where] = encoded("7")[0] + number % 4
            self.rows[tuple(tokens[:PROMPT].tolist())] = said

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, VOCABULARY)
        for row, said in zip(tokens, logits, strict=True):
            own = self.rows[tuple(row[:PROMPT].tolist())][: len(row)].clamp(min=0)
            said.scatter_(1, own[:, None], 5.0)
        return logits


def test_greedy_decoding_and_the_generators_own_scorers_agree_with_the_metric(known, data):
    model = Table(data, slip=1)
    correct = data.kind.read(model(data.test.images), data.test.labels, torch.zeros(len(data.test)))[
        "correct"
    ]
    found = answers(model, data.test.images)
    scores = [known[int(place)].score(text) for place, text in zip(data.test.source[1], found, strict=True)]
    is_right = [score == 1.0 for score in scores]
    own = [known[int(place)].generator for place in data.test.source[1]]
    for generator, right, exact in zip(own, is_right, correct.bool().tolist(), strict=True):
        assert right == exact or (generator == "number_sorting" and right)  # see the next test
    assert 0.5 < correct.mean() < 0.9


def test_the_scorer_of_number_sorting_takes_digits_that_are_off_by_one(known):
    problem = next(p for p in known if p.generator == "number_sorting" and p.answer[-1] in "12345678")
    near, far = (problem.answer[:-1] + str((int(problem.answer[-1]) + step) % 10) for step in (1, 5))
    assert problem.score(near) == 1.0 > problem.score(far)


def test_a_sample_that_is_given_the_answer_of_another_one_reads_it(data):
    tokens, targets = data.train.images, data.train.labels
    assert torch.equal(data.kind.inputs_for(tokens, targets), tokens)
    other = targets.roll(1, 0)
    read = data.kind.inputs_for(tokens, other)
    assert torch.equal(read[:, :PROMPT], tokens[:, :PROMPT])
    own = (other >= 0)[:, :-1]
    assert torch.equal(read[:, 1:][own], other[:, :-1][own])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generators": ["gcds"]}, "Did you mean 'gcd'"),
        ({"generators": "gcd"}, "generators must be a list, got 'gcd'"),
        ({"generators": ["gcd", "gcd"]}, "generators has something twice"),
        ({"levels": []}, "levels must be a list"),
        ({"levels": [4]}, "level must be .* 3"),
        ({"generators": ["chain_sum"], "levels": [1], "train": 4000}, "about .* different problems"),
        ({"train": 0}, "reasoning: train must be"),
        ({"generators": ["gcd"], "levels": [3]}, "about 0 different problems"),
    ],
)
def test_what_cannot_be_made_is_refused(settings, message):
    pytest.importorskip("reasoning_gym", reason="needs reasoning-gym: pip install reasoning-gym")
    with pytest.raises(ValueError, match=message):
        reasoning(**{**SMALL, **settings})


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    from dsenv.tasks.reasoning import _dataset

    _dataset.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match=r"needs reasoning-gym: pip install reasoning-gym"):
        reasoning(**SMALL)
