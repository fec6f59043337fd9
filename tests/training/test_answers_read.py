"""A language model that is given the answer of another sample reads that answer."""

import torch

from dsenv import Recipe, Task
from dsenv.select.base import StackedSelection
from dsenv.task_kinds.language import Language
from dsenv.tasks.decoder import decoder
from dsenv.tasks.tensors import from_tensors
from dsenv.training import Trainer

VOCABULARY, PROMPT, LENGTH = 12, 3, 6
SIZES = (20, 8, 8)


def rows(prompts, answers):
    """Inputs and targets of prompts (N, 3) and answers (N, 4), the last token of which is not read."""
    tokens = torch.cat([prompts, answers], 1)
    targets = tokens[:, 1:].clone()
    targets[:, : PROMPT - 1] = -100
    return tokens[:, :-1], targets


def task_of(prompts, answers):
    parts = [rows(p, a) for p, a in zip(prompts.split(SIZES), answers.split(SIZES), strict=True)]
    (inputs, targets), (validation, wanted), (test, asked) = parts
    data = from_tensors(
        inputs,
        targets,
        validation_images=validation,
        validation_labels=wanted,
        test=SIZES[2],
        test_images=test,
        test_labels=asked,
        kind=Language(VOCABULARY, shifted=True),
    )
    recipe = Recipe(optimizer="adamw", lr=1e-2, batch_size=5)
    return Task(data, lambda: decoder((LENGTH,), VOCABULARY, width=8, layers=1, heads=2), recipe)


def trained(task, given):
    trainer = Trainer(task, 1)
    source = task.dataset.train.source[1]
    labels = source.argsort()[given[source]]  # positions in the split, as its samples are shuffled
    trainer.start(0, 3, labels, torch.arange(SIZES[1]).roll(1))
    index = torch.arange(SIZES[0])[None]
    selection = StackedSelection(index, torch.ones(1, SIZES[0]), (SIZES[0],))
    found = trainer.train(selection, 0, [0], [SIZES[0]])
    return found.loss, trainer.evaluate("validation").log_likelihood, trainer.score_candidates(index).loss


def test_training_on_exchanged_answers_equals_training_on_rows_that_hold_them():
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, VOCABULARY, (36, PROMPT), generator=generator)
    answers = torch.randint(1, VOCABULARY, (36, LENGTH + 1 - PROMPT), generator=generator)
    keep, around = torch.arange(36), torch.arange(36)
    around[: SIZES[0]] = around[: SIZES[0]].roll(1)

    exchanged = trained(task_of(prompts, answers), around)
    held = trained(task_of(prompts, answers[around]), keep)
    for one, other in zip(exchanged, held, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(exchanged[0], trained(task_of(prompts, answers), keep)[0], rtol=1e-3)


def test_tokens_stay_as_they_are_where_targets_are_their_own():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, VOCABULARY, (5, 9), generator=generator)
    in_line = tokens.clone()
    in_line[:, :4] = -100
    assert torch.equal(Language(VOCABULARY).inputs_for(tokens, in_line), tokens)
    other = Language(VOCABULARY).inputs_for(tokens, in_line.roll(1, 0))
    assert torch.equal(other[:, 4:], tokens.roll(1, 0)[:, 4:])
    assert torch.equal(other[:, :4], tokens[:, :4])
