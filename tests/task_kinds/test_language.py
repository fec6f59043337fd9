"""The kind of causal language models: readings by their slow definition, greedy decoding, bad input."""

import math

import pytest
import torch
from torch.nn import functional as F

from dsenv import DataPlan
from dsenv.task_kinds import READINGS, make_kind
from dsenv.task_kinds.language import Language

pytestmark = pytest.mark.fast

B, T, V = 5, 7, 11


def texts(seed=0):
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(V, (B, T), generator=draw)
    targets[0, :3], targets[1, 5:] = -100, -100  # a prompt, padding
    logits = torch.randn(B, T, V, generator=draw)
    logits[2, :-1] = 9 * F.one_hot(targets[2, 1:], V)  # a sure and exact answer
    return logits, targets


def test_readings_are_means_over_the_tokens_that_are_asked_for():
    kind = make_kind({"name": "language", "vocabulary": V})
    logits, targets = texts()
    kind.check_targets("targets", targets, B)
    kind.check_outputs(logits, targets)
    loss = kind.sample_loss(logits.requires_grad_(), targets)
    said = kind.read(logits.detach(), targets, loss.detach())
    assert isinstance(kind, Language) and set(said) == set(READINGS)

    for row in range(B):
        places = [t for t in range(T - 1) if targets[row, t + 1] != -100]
        p = logits[row, places].softmax(1)
        own = p.gather(1, targets[row, [t + 1 for t in places]][:, None])[:, 0]
        hot = F.one_hot(targets[row, [t + 1 for t in places]], V)
        wanted = {
            "confidence": own.log().mean().exp(),
            "entropy": -(p * p.log()).sum(1).mean() / math.log(V),
            "margin": (own - (p - 2 * hot).amax(1)).mean(),
            "correct": (p.argmax(1) == hot.argmax(1)).all().float(),
            "error": (p - hot).norm(dim=1).mean(),
        }
        torch.testing.assert_close(loss[row], -own.log().mean())
        for name, value in wanted.items():
            torch.testing.assert_close(said[name][row], value.detach(), rtol=1e-5, atol=1e-6)
    assert said["correct"].tolist() == [0, 0, 1, 0, 0]
    assert kind.tokens(targets).tolist() == [4, 4, 6, 6, 6]


def test_the_gradient_by_one_token_has_the_length_of_its_error():
    kind = Language(V)
    logits, targets = texts()
    targets = torch.full_like(targets, -100).index_fill(1, torch.tensor([T - 1]), 4)
    logits.requires_grad_()
    loss = kind.sample_loss(logits, targets)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    error = kind.read(logits.detach(), targets, loss.detach())["error"]
    torch.testing.assert_close(gradient.flatten(1).norm(dim=1), error, rtol=1e-5, atol=1e-6)


def test_a_uniform_guess_has_the_loss_and_confidence_that_the_kind_says():
    kind = Language(V)
    _, targets = texts()
    logits = torch.zeros(B, T, V)
    loss = kind.sample_loss(logits, targets)
    said = kind.read(logits, targets, loss)
    torch.testing.assert_close(loss, torch.full((B,), kind.guess_loss))
    torch.testing.assert_close(said["confidence"], torch.full((B,), kind.guess_confidence))
    torch.testing.assert_close(said["entropy"], torch.ones(B))


def test_the_metric_is_what_greedy_decoding_gets_right():
    """The share of answers that a model which knows the last token alone decodes as asked."""
    kind = Language(V)
    table = torch.randn(V, V, generator=torch.Generator().manual_seed(3))
    best = table.argmax(1)
    prompts = torch.arange(V)
    targets = torch.full((V, 4), -100)
    answers = [prompts]
    for _ in range(3):
        answers.append(best[answers[-1]])
    tokens = torch.stack(answers, 1)
    tokens[4:, 3] = (tokens[4:, 3] + 1) % V  # the last token of seven answers is another one
    targets[:, 1:] = tokens[:, 1:]

    decoded = [tokens[:, :1]]
    for _ in range(3):
        decoded.append(best[decoded[-1]])
    exact = (torch.cat(decoded, 1) == tokens).all(1).float().mean()
    logits = table[tokens]
    loss = kind.sample_loss(logits, targets)
    sums = kind.statistics(logits, targets, loss).sum(0)
    torch.testing.assert_close(kind.metric(sums), exact)
    assert exact == pytest.approx(4 / V) and kind.metric_name == "exact answers"


def test_shifted_targets_line_up():
    logits, targets = texts()
    usual, moved = Language(V), Language(V, shifted=True)
    torch.testing.assert_close(
        usual.sample_loss(logits, targets), moved.sample_loss(logits[:, :-1], targets[:, 1:])
    )
    assert moved.tokens(targets[:, 1:]).equal(usual.tokens(targets))


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (torch.zeros(B, T), "int64 tokens (N, T)"),
        (torch.zeros(B, dtype=torch.int64), "int64 tokens (N, T)"),
        (torch.zeros(B - 1, T, dtype=torch.int64), "one row for each of 5 samples"),
        (torch.full((B, T), V), f"token {V} (first at sample 0); allowed are 0 to {V - 1}"),
        (torch.full((B, T), -100), "asks for no token at sample [0, 1, 2, 3, 4]"),
        (torch.full((B, T), -100).index_fill(1, torch.tensor([0]), 2), "every target but the first"),
        ([[1]], "dense tensor"),
    ],
)
def test_bad_targets_are_named(targets, words):
    with pytest.raises(ValueError) as error:
        Language(V).check_targets("labels", targets, B)
    assert words in str(error.value)


def test_bad_outputs_are_named():
    logits, targets = texts()
    for outputs in (logits[..., :-1], logits[:, :-1], logits[0], logits.long(), None):
        with pytest.raises(ValueError, match="outputs for language must be"):
            Language(V).check_outputs(outputs, targets)


def test_a_plan_reads_the_logits_of_a_module_of_ones_own():
    tokens = torch.randint(V, (40, T), generator=torch.Generator().manual_seed(0))
    model = torch.nn.Embedding(V, V)  # knows the last token alone
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    kind = {"name": "language", "vocabulary": V}
    plan = DataPlan((tokens, tokens), epochs=3, batch_size=10, selector="infobatch", ratio=0.5, kind=kind)
    for _ in plan.epochs_left():
        for batch in plan.batches():
            logits = model(batch.inputs)
            losses = plan.kind.sample_loss(logits, batch.labels)
            loss = plan.loss(batch, losses, outputs=logits, tokens=plan.kind.tokens(batch.labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seen = plan.signals.times_trained > 0
    assert plan.cost.trained == 60 and plan.cost.tokens == 60 * (T - 1)
    assert bool((plan.signals.confidence[seen] > 0).all()) and bool((plan.signals.entropy[seen] < 1).all())
    assert plan.metrics()["accuracy/training loss"] < math.log(V) + 1


def test_parts_that_need_class_logits_are_refused_with_the_reason():
    tokens = torch.zeros(10, T, dtype=torch.int64)
    kind = {"name": "language", "vocabulary": V}
    with pytest.raises(ValueError, match="kind language"):
        DataPlan((tokens, tokens), epochs=1, batch_size=5, selector="divbs", ratio=0.5, kind=kind)
    with pytest.raises(ValueError, match="the targets of data asks for no token at sample"):
        DataPlan((tokens, tokens - 100), epochs=1, batch_size=5, kind=kind)


def test_losses_by_token_are_refused_with_what_to_do():
    tokens = torch.zeros(10, T, dtype=torch.int64)
    plan = DataPlan((tokens, tokens), epochs=1, batch_size=5, kind=Language(V))
    batch = next(plan.batches())
    with pytest.raises(ValueError, match=r"got \(5, 7\).*tokens=mask\.sum\(1\)"):
        plan.loss(batch, torch.ones(5, T))
    with pytest.raises(ValueError, match=r"\(B, T, V\) = \(5, 7, 11\)"):
        plan.loss(batch, torch.ones(5), outputs=torch.zeros(5, T))
