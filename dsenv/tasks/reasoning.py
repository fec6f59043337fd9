"""Short reasoning problems of `reasoning-gym` as rows of characters, for a small language model.

Five generators of reasoning-gym (Stojanovski et al., 2025, arXiv 2505.24760; Apache-2.0), each at three
levels of difficulty. A question of reasoning-gym is a sentence around a few characters that differ;
only those are kept, behind a sign that says which generator it is:

| generator         | prompt      | answer    | level 1          | level 2          | level 3             |
|-------------------|-------------|-----------|------------------|------------------|---------------------|
| spell_backward    | `~cubeb=`   | `bebuc`   | 3 letters        | 4 or 5 letters   | 6 letters           |
| letter_counting   | `e:there=`  | `2`       | 1 word           | 2 words          | -                   |
| number_sorting    | `<527=`     | `257`     | 2 digits         | 3 digits         | 4 digits            |
| gcd               | `%12,18=`   | `6`       | 2 numbers to 30  | 2 numbers to 99  | -                   |
| chain_sum         | `14-25=`    | `-11`     | 2 terms, 1 digit | 3 terms, 1 digit | 2 terms, 2 digits   |

Nothing that matters is lost: a question and its answer follow from the row, up to capital letters,
which neither the generators nor their scorers mind. The numbers of number_sorting are digits, `5.0,
2.0, 7.0` in the question; `<` sorts them upwards, `>` downwards.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from dsenv.errors import check_count, check_seed, pick, shown
from dsenv.task_kinds.language import Language
from dsenv.tasks.dataset import Dataset, split_pools

ALPHABET = "$= ~:<>%+-,0123456789abcdefghijklmnopqrstuvwxyz"
"""Token t > 0 is ALPHABET[t - 1]; "$" ends an answer, and token 0 is padding."""
VOCABULARY = len(ALPHABET) + 1
PROMPT, ANSWER = 8, 7
"""Tokens of the longest prompt, "=" included, and of the longest answer, its end included."""
LENGTH = PROMPT + ANSWER - 1
"""Tokens of a row: the end of an answer is asked for, and never read."""
IGNORED = -100  # where nothing is asked
REPEATS = 200  # problems in a row that are known already: there are hardly any others
MOST = 1 << 20  # problems in all


def _plain(text: str) -> str:
    return text.lower()


def _listed(text: str) -> str:
    """Numbers as the scorer of number_sorting takes them."""
    return str(list(text))


def _unlisted(text: str) -> str:
    return "".join(re.findall(r"\d(?=\.0')", text))


@dataclass(frozen=True)
class Generator:
    """How the problems of one generator of reasoning-gym are written."""

    levels: tuple[Mapping[str, Any], ...]
    """Its settings at each level."""
    question: str
    """Regular expression of a whole question; its groups are what differs."""
    prompt: Callable[[re.Match[str]], str]
    """What is kept of it."""
    write: Callable[[str], str] = _plain
    """An answer of reasoning-gym as it stands in a row."""
    read: Callable[[str], str] = str
    """The answer that stands in a row as the scorer takes it."""


_DIGITS = {"min_decimals": 0, "max_decimals": 0, "min_value": 0, "max_value": 9}
GENERATORS: dict[str, Generator] = {
    "spell_backward": Generator(
        levels=tuple({"min_word_len": low, "max_word_len": high} for low, high in ((3, 3), (4, 5), (6, 6))),
        question=r"Spell this word backward \(example: sun -> nus\): (\w+)",
        prompt=lambda found: "~" + found[1],
    ),
    "letter_counting": Generator(
        levels=tuple({"min_words": words, "max_words": words} for words in (1, 2)),
        question=r'How many times does the letter "(.)" appear in the text: "(.*)"\?',
        prompt=lambda found: f"{found[1]}:{found[2]}",
    ),
    "number_sorting": Generator(
        levels=tuple({"min_numbers": count, "max_numbers": count, **_DIGITS} for count in (2, 3, 4)),
        question=r"Sort these numbers in (a|de)scending order: ([\d., ]+)\n(?s:.*)",
        prompt=lambda found: ("<" if found[1] == "a" else ">") + re.sub(r"\.0(, )?", "", found[2]),
        write=_unlisted,
        read=_listed,
    ),
    "gcd": Generator(
        levels=tuple({"min_numbers": 2, "max_numbers": 2, "max_value": largest} for largest in (30, 99)),
        question=r"Find the Greatest Common Divisor \(GCD\) of these numbers: ([\d, ]+)\. Give only .*",
        prompt=lambda found: "%" + found[1].replace(" ", ""),
    ),
    "chain_sum": Generator(
        levels=tuple(
            {"min_terms": terms, "max_terms": terms, "min_digits": digits, "max_digits": digits}
            for terms, digits in ((2, 1), (3, 1), (2, 2))
        ),
        question=r"State the final answer to the following arithmetic problem: (.*) =",
        prompt=lambda found: found[1].replace(" ", ""),
    ),
}
"""Name -> how its problems are written."""
LEVELS = (1, 2, 3)


@dataclass(frozen=True)
class Problem:
    """One problem of reasoning-gym, and what stands for it in a row."""

    generator: str
    level: int
    """Of `LEVELS`."""
    prompt: str
    """What is kept of the question, "=" at its end."""
    answer: str
    entry: Mapping[str, Any]
    """As reasoning-gym gives it: question, answer and metadata."""

    def score(self, answer: str) -> float:
        """Score of an answer as it stands in a row, [0, 1], by reasoning-gym's own scorer."""
        scorer = _dataset(self.generator, self.level, 0)
        score: float = scorer.score_answer(GENERATORS[self.generator].read(answer), dict(self.entry))
        return score


def problems(
    generators: Sequence[str] | None = None,
    levels: Sequence[int] = LEVELS,
    train: int = 4000,
    validation: int = 160,
    test: int = 1000,
    seed: int = 0,
) -> list[Problem]:
    """The problems that `reasoning`, with the same arguments, splits: `Split.source` holds positions in them.

    For example::

        from dsenv.tasks.reasoning import problems, reasoning

        settings = dict(generators=["spell_backward", "gcd"], train=100, validation=20, test=20)
        data, known = reasoning(**settings), problems(**settings)
        first = known[int(data.test.source[1][0])]
        print(first.generator, first.level, first.prompt, first.score(first.answer))

    Arguments and errors are those of `reasoning`.
    """
    total = sum(_sizes(train, validation, test))
    own_levels, seed = _levels(levels), check_seed("reasoning: seed", seed)
    streams = [
        _distinct(name, level, seed)
        for name in _names(generators)
        for level in own_levels
        if level <= len(GENERATORS[name].levels)
    ]
    found = list(islice(_in_turn(streams), total))
    if len(found) < total:
        raise ValueError(
            f"reasoning: {_names(generators)} at the levels {own_levels} have about {len(found)} different "
            f"problems, and train, validation and test ask for {total}; ask for fewer, or for more "
            "generators or levels"
        )
    return found


def _in_turn(streams: list[Iterator[Problem]]) -> Iterator[Problem]:
    """One problem of each stream in turn; those that run out leave their share to the others."""
    while streams:
        turns = [(stream, next(stream, None)) for stream in streams]
        yield from (problem for _, problem in turns if problem is not None)
        streams = [stream for stream, problem in turns if problem is not None]


def reasoning(
    generators: Sequence[str] | None = None,
    levels: Sequence[int] = LEVELS,
    train: int = 4000,
    validation: int = 160,
    test: int = 1000,
    seed: int = 0,
) -> Dataset:
    """Problems of reasoning-gym as rows of tokens; made by procedure, nothing is downloaded.

    A row holds a prompt that ends at token `PROMPT`, padded in front, and behind it the answer: so answers of
    all rows stand in one place, and a row may be given the answer of another one. Targets are the tokens one
    place on, -100 except where the answer and its end are asked for. All generators and levels have equal
    shares, but for those that have fewer problems. No prompt is there twice, so none is in two splits.

    Use::

        from dsenv.tasks.reasoning import reasoning

        data = reasoning(levels=[1], train=200, validation=50, test=100)
        print(data.sample_shape, data.kind.outputs, data.train.labels[0])

    Args:
        generators: names in `GENERATORS`; None for all.
        levels: how difficult, of 1, 2 and 3.
        train: training samples.
        validation: trusted validation samples.
        test: test samples.
        seed: decides the problems and their splits.

    Raises:
        ValueError: reasoning-gym is not installed, a generator or level is unknown or there twice, or there
            are too few different problems.
    """
    sizes = _sizes(train, validation, test)
    rows = _rows(problems(generators, levels, *sizes, seed))
    targets = torch.where(rows[:, 1:] > 0, rows[:, 1:], IGNORED)
    targets[:, : PROMPT - 1] = IGNORED
    splits = split_pools(f"reasoning, seed {seed}", (rows[:, :LENGTH], targets), None, sizes, seed)
    return Dataset("reasoning", *splits, kind=Language(VOCABULARY, shifted=True))


def _rows(known: Sequence[Problem]) -> Tensor:
    """Tokens (N, LENGTH + 1) of problems, with the ends of their answers."""
    rows = torch.zeros(len(known), LENGTH + 1, dtype=torch.int64)
    for row, problem in zip(rows, known, strict=True):
        tokens = encoded(problem.prompt + problem.answer + "$")
        start = PROMPT - len(problem.prompt)
        row[start : start + len(tokens)] = tokens
    return rows


def encoded(text: str) -> Tensor:
    """Tokens (L,) of a text of `ALPHABET`."""
    return torch.tensor([ALPHABET.index(character) + 1 for character in text])


@torch.no_grad()
def answers(model: nn.Module, prompts: Tensor) -> list[str]:
    """Answers of a language model by greedy decoding, without the end.

    Args:
        model: maps tokens (B, T) to logits (B, T, V).
        prompts: (B, T) rows of `reasoning`; what stands behind the prompt is not read.
    """
    rows = torch.cat([prompts, torch.zeros_like(prompts[:, :1])], 1)
    rows[:, PROMPT:] = 0
    was_training = model.training
    model.eval()
    for place in range(PROMPT, LENGTH + 1):
        rows[:, place] = model(rows[:, :place])[:, -1].argmax(-1)
    model.train(was_training)
    return [
        "".join(_character(token) for token in row).partition("$")[0] for row in rows[:, PROMPT:].tolist()
    ]


def _character(token: int) -> str:
    return ALPHABET[token - 1] if token else "_"  # "_" is in no answer


def _sizes(train: Any, validation: Any, test: Any) -> tuple[int, int, int]:
    given = {"train": train, "validation": validation, "test": test}
    checked = [check_count(f"reasoning: {key}", size, 1, MOST) for key, size in given.items()]
    return checked[0], checked[1], checked[2]


def _names(generators: Any) -> list[str]:
    names = list(GENERATORS) if generators is None else _several("generators", generators)
    return [pick("generator of reasoning problems", name, GENERATORS) for name in names]


def _levels(levels: Any) -> list[int]:
    checked = [check_count("reasoning: level", level, 1, len(LEVELS)) for level in _several("levels", levels)]
    return checked


def _several(what: str, values: Any) -> list[Any]:
    """A list without repeats that holds something."""
    if isinstance(values, str | bytes) or not isinstance(values, Sequence) or not values:
        raise ValueError(f"reasoning: {what} must be a list, got {shown(values)}")
    if len(set(values)) < len(values):
        raise ValueError(f"reasoning: {what} has something twice: {shown(values)}")
    return list(values)


@cache
def _dataset(generator: str, level: int, seed: int) -> Any:
    """reasoning-gym's generator; problem i comes from a random stream of its own, seed + i.

    Raises:
        ValueError: reasoning-gym is not installed.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise ValueError(
            "the data set reasoning needs reasoning-gym: pip install reasoning-gym, or in a checkout "
            'pip install -e ".[reasoning]"'
        ) from error
    settings = GENERATORS[generator].levels[level - 1]
    return reasoning_gym.create_dataset(generator, seed=seed, size=MOST, **settings)


def _distinct(generator: str, level: int, seed: int) -> Iterator[Problem]:
    """Problems of one generator and level that fit a row, none twice, until hardly any other is found."""
    how, source = GENERATORS[generator], _dataset(generator, level, seed * MOST)
    seen: set[str] = set()
    since = 0
    for entry in islice(source, MOST):
        match = re.fullmatch(how.question, entry["question"])
        if match is None:
            raise ValueError(
                f"reasoning-gym asks otherwise than dsenv knows: {entry['question']!r} of {generator}; "
                "install reasoning-gym 0.1.25"
            )
        prompt, answer = how.prompt(match).lower() + "=", how.write(entry["answer"])

        since += 1
        if prompt not in seen and _fits(prompt, answer):
            seen.add(prompt)
            since = 0
            yield Problem(generator, level, prompt, answer, entry)
        if since > REPEATS:
            return


def _fits(prompt: str, answer: str) -> bool:
    is_short = len(prompt) <= PROMPT and len(answer) < ANSWER
    return is_short and set(prompt + answer) <= set(ALPHABET[1:])
