"""Losses from hidden states in chunks equal those of whole logits, gradients too; bad input is named."""

import importlib
import math
import re
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dsenv.task_kinds import tokens
from dsenv.text import Head, from_logits, token_losses
from tests.waits import stand_in, true_gpu, watching

pytestmark = pytest.mark.fast

B, T, D, V = 3, 8, 5, 13
HEADS = [{}, {"scale": 0.5}, {"softcap": 2.0}, {"scale": 3.0, "softcap": 1.5, "chunk": 3}]


def parts(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (B, T, D), (V, D), (V,)
    hidden, weight, bias = (torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes)
    labels = torch.randint(V, (B, T), generator=generator)
    labels[0, :3] = -100  # a prompt
    labels[1, 5:] = -100  # padding
    return hidden, weight, bias, labels


def whole_logits(hidden, weight, bias, scale=1.0, softcap=None, chunk=None):
    logits = (hidden @ weight.t() + bias) * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def slow(logits, labels):
    """Loss and signals of each sample, written out token by token."""
    losses, said = [], []
    for row, asked in zip(logits, labels, strict=True):
        places = [t for t in range(1, len(asked)) if asked[t] != -100]
        own = [F.cross_entropy(row[t - 1][None], asked[t][None]) for t in places]
        losses.append(sum(own) / len(own))
        found = dict.fromkeys(("entropy", "margin", "error"), 0.0)
        right = True
        for t in places:
            p = row[t - 1].detach().softmax(0)
            others = torch.cat([p[: asked[t]], p[asked[t] + 1 :]])
            found["entropy"] -= float((p * p.log()).sum()) / math.log(len(p)) / len(places)
            found["margin"] += float(p[asked[t]] - others.max()) / len(places)
            found["error"] += float((p - F.one_hot(asked[t], len(p))).norm()) / len(places)
            right &= int(p.argmax()) == int(asked[t])
        said.append({**found, "correct": float(right), "confidence": math.exp(-losses[-1].item())})
    return torch.stack(losses), said


@pytest.mark.parametrize("settings", HEADS)
def test_losses_signals_and_gradients_equal_those_of_whole_logits(settings):
    hidden, weight, bias, labels = parts()
    labels[2, 1:] = whole_logits(hidden, weight, bias, **settings)[2, :-1].argmax(-1)  # one exact answer
    found = token_losses(hidden, weight, labels, bias, head=Head(**settings))
    losses, said = slow(whole_logits(hidden, weight, bias, **settings), labels)
    torch.testing.assert_close(found.loss, losses, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.sums, losses * found.tokens, rtol=1e-12, atol=1e-12)
    assert found.tokens.tolist() == [5, 4, 7]
    assert [row["correct"] for row in said] == [0, 0, 1]
    for name, values in found.signals.items():
        torch.testing.assert_close(values, torch.tensor([row[name] for row in said]), rtol=1e-5, atol=1e-6)
        assert values.dtype == torch.float32 and not values.requires_grad

    upstream = torch.tensor([0.3, 2.0, 0.0], dtype=torch.float64)  # weights of a selector
    own = torch.autograd.grad((found.loss * upstream).sum(), (hidden, weight, bias))
    theirs = torch.autograd.grad((losses * upstream).sum(), (hidden, weight, bias))
    for mine, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-13)


def test_from_logits_equals_the_slow_definition_in_any_chunk(monkeypatch):
    hidden, weight, bias, labels = parts()
    logits = whole_logits(hidden, weight, bias).detach().requires_grad_()
    losses, said = slow(logits, labels)
    (theirs,) = torch.autograd.grad(losses.square().sum(), logits)
    for elements in (1, 3 * V, 1 << 20):
        monkeypatch.setattr(tokens, "CHUNK_ELEMENTS", elements)
        found = from_logits(logits, labels)
        torch.testing.assert_close(found.loss, losses, rtol=1e-12, atol=1e-12)
        margins = torch.tensor([row["margin"] for row in said])
        torch.testing.assert_close(found.signals["margin"], margins, rtol=1e-5, atol=1e-6)
        (own,) = torch.autograd.grad(found.loss.square().sum(), logits)
        torch.testing.assert_close(own, theirs, rtol=1e-11, atol=1e-13)


def test_finite_differences():
    hidden, weight, bias, labels = parts()

    def losses(hidden, weight, bias):
        return token_losses(hidden, weight, labels, bias, head=Head(1.5, 2.0, 4)).loss

    assert torch.autograd.gradcheck(losses, (hidden, weight, bias))


def test_a_frozen_head_gets_no_gradient_and_frozen_states_none():
    hidden, weight, _, labels = parts()
    token_losses(hidden, weight.detach(), labels).loss.sum().backward()
    assert hidden.grad is not None and weight.grad is None
    token_losses(hidden.detach(), weight, labels).loss.sum().backward()
    assert weight.grad is not None


def test_half_precision_rounds_as_the_same_loss_of_whole_logits():
    """bf16 hidden states of a float32 head under autocast: the logits themselves are those of autocast."""
    hidden, weight, bias, labels = parts(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        states = hidden.bfloat16()
        found = token_losses(states, weight, labels, bias, head=Head(chunk=4))
        logits = F.linear(states, weight, bias).float()
    theirs, _ = slow(logits, labels)
    torch.testing.assert_close(found.loss, theirs, rtol=1e-6, atol=1e-6)  # float32 sums in another order
    own = torch.autograd.grad(found.loss.sum(), (hidden, weight, bias))
    other = torch.autograd.grad(theirs.sum(), (hidden, weight, bias))
    for mine, other_ in zip(own, other, strict=True):
        assert mine.dtype == torch.float32
        assert float((mine - other_).norm()) < 0.02 * float(other_.norm())  # 2^-8 a product


def test_bfloat16_throughout():
    hidden, weight, bias, labels = (each.detach() for each in parts(torch.float32))
    found = token_losses(hidden.bfloat16(), weight.bfloat16(), labels, bias.bfloat16())
    assert found.loss.dtype == torch.float32
    exact = token_losses(hidden, weight, labels, bias)
    torch.testing.assert_close(found.loss, exact.loss, rtol=0.05, atol=0.05)


def test_padding_and_prompts_never_count():
    hidden, weight, _, labels = (each.detach() for each in parts())
    before = token_losses(hidden, weight, labels)
    longer = torch.cat([hidden, torch.full((B, 4, D), 1e30, dtype=hidden.dtype)], 1)
    padded = torch.cat([labels, torch.full((B, 4), -100)], 1)
    longer[0, :2] = -7.0  # before the last token of the prompt
    after = token_losses(longer, weight, padded)
    assert torch.equal(before.loss, after.loss) and torch.equal(before.tokens, after.tokens)
    assert all(torch.equal(before.signals[name], after.signals[name]) for name in before.signals)


def test_rows_without_padding_equal_padded_ones_and_do_not_see_the_next():
    lengths = torch.tensor([5, 8, 2])
    hidden, weight, bias, labels = parts()
    labels = torch.randint(V, (B, T))  # the first token of each row is asked for too
    inside = torch.arange(T) < lengths[:, None]
    padded = token_losses(hidden, weight, labels.masked_fill(~inside, -100), bias)
    for form in (lambda flat: flat, lambda flat: flat[None]):
        flat = token_losses(form(hidden[inside]), weight, form(labels[inside]), bias, lengths=lengths)
        torch.testing.assert_close(flat.loss, padded.loss, rtol=1e-12, atol=1e-12)
        assert flat.tokens.tolist() == padded.tokens.tolist() == [4, 7, 1]
    logits = from_logits(whole_logits(hidden, weight, bias)[inside], labels[inside], lengths=lengths)
    torch.testing.assert_close(logits.loss, padded.loss, rtol=1e-12, atol=1e-12)


def test_shifted_labels_line_up_with_the_logits():
    hidden, weight, _, labels = parts()
    usual = token_losses(hidden, weight, labels)
    moved = token_losses(hidden[:, :-1], weight, labels[:, 1:], shifted=True)
    torch.testing.assert_close(usual.loss, moved.loss)


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    with true_gpu() if request.param == "gpu" else stand_in() as device:
        yield device


def test_a_device_is_not_waited_for_and_says_the_same(device):
    """Where it would be a wait to pick the tokens that are asked for, all are worked on."""
    hidden, weight, bias, labels = parts(torch.float32)
    head = Head(softcap=3.0, chunk=5)
    for lengths in (None, torch.tensor([4, T - 4])):
        rows, asked = (hidden, labels) if lengths is None else (hidden[2], labels[2])
        plain = token_losses(rows, weight, asked, bias, lengths=lengths, head=head)
        own = torch.autograd.grad(plain.loss.sum(), (hidden, weight, bias))

        there = [each.detach().to(device).requires_grad_() for each in (rows, weight, bias)]
        asked, lengths = asked.to(device), None if lengths is None else lengths.to(device)
        with watching("the losses"):
            found = token_losses(*there[:2], asked, there[2], lengths=lengths, head=head)
            other = torch.autograd.grad(found.loss.sum(), there)
            logits = from_logits(F.linear(*there), asked, lengths=lengths)
            logits.loss.sum().backward()
        torch.testing.assert_close(found.loss.cpu(), plain.loss, rtol=1e-5, atol=1e-6)
        assert found.tokens.tolist() == plain.tokens.tolist()
        for name, values in plain.signals.items():
            torch.testing.assert_close(found.signals[name].cpu(), values, rtol=1e-4, atol=1e-5)
        for mine, theirs in zip(own[1:], other[1:], strict=True):
            torch.testing.assert_close(theirs.cpu(), mine, rtol=1e-4, atol=1e-5)


def test_on_a_device_a_sample_without_a_token_is_no_number(device):
    hidden, weight, _, labels = (each.detach() for each in parts(torch.float32))
    labels[1] = -100
    found = token_losses(hidden.to(device), weight.to(device), labels.to(device))
    assert found.loss.cpu().isnan().tolist() == [False, True, False]


def test_a_token_that_is_ruled_out_keeps_the_signals_finite():
    logits = torch.randn(2, 4, V)
    logits[..., 3] = -torch.inf
    labels = torch.full((2, 4), 5)
    found = from_logits(logits, labels)
    assert all(bool(values.isfinite().all()) for values in found.signals.values())
    assert found.loss.isfinite().all()


def test_what_is_not_a_number_is_not_hidden():
    logits = torch.randn(2, 4, V)
    logits[1, 1, 0] = torch.nan
    assert from_logits(logits, torch.full((2, 4), 5)).loss.isnan().tolist() == [False, True]


def test_no_array_of_all_logits_is_made():
    """The largest array that any operation gives, forward and backward, is that of a chunk."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            for value in found if isinstance(found, tuple | list) else (found,):
                if isinstance(value, torch.Tensor):
                    self.seen = max(self.seen, value.numel())
            return found

    rows, size, vocabulary, chunk = 64, 4, 1000, 16
    hidden = torch.randn(4, rows // 4, size, requires_grad=True)
    head = nn.Linear(size, vocabulary)
    labels = torch.randint(vocabulary, (4, rows // 4))
    with Largest() as largest:
        found = token_losses(hidden, head.weight, labels, head.bias, head=Head(chunk=chunk))
        found.loss.sum().backward()
    assert largest.seen == chunk * vocabulary


EMPTY = torch.full((B, T), -100)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": EMPTY}, "no token is asked for in row [0, 1, 2] of 3"),
        ({"labels": EMPTY.index_fill(1, torch.tensor([0]), 4)}, "only its first one"),
        ({"labels": torch.full((B, T), V)}, f"0 to {V - 1}, or -100 where nothing is asked; got {V} in row"),
        ({"labels": torch.full((B, T), -1)}, "got -1 in row [0, 1, 2]"),
        ({"labels": torch.zeros(B, T)}, "use labels.long()"),
        ({"labels": torch.zeros(B, T - 1, dtype=torch.int64)}, "in line with the input tokens"),
        ({"labels": [1, 2]}, "got list"),
        ({"lengths": torch.tensor([3, 4])}, "leave lengths out where each row is a sample"),
        ({"hidden": torch.zeros(B, T, D, dtype=torch.int64)}, "hidden states (B, T, D)"),
        ({"weight": torch.zeros(D, V, dtype=torch.float64)}, f"(V, {D})"),
        ({"weight": torch.zeros(V, D)}, "under torch.autocast"),
        ({"bias": torch.zeros(D)}, f"({V},)"),
    ],
)
def test_bad_input_is_named(change, words):
    hidden, weight, _, labels = (each.detach() for each in parts())
    given = {"hidden": hidden, "weight": weight, "labels": labels} | change
    with pytest.raises(ValueError) as error:
        token_losses(**given)
    assert words in str(error.value)


@pytest.mark.parametrize("settings", [{"scale": 0}, {"softcap": -1.0}, {"chunk": 0}, {"scale": "2"}])
def test_a_head_that_cannot_be_is_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Head(**settings)


def test_lengths_must_fill_the_row():
    hidden, weight, _, labels = (each.detach() for each in parts())
    for lengths, words in (
        (torch.tensor([3, 4]), "add up to the 8 tokens"),
        (torch.tensor([0, 8]), "at least 1"),
        (torch.tensor([8.0]), "whole numbers (R,)"),
    ):
        with pytest.raises(ValueError) as error:
            token_losses(hidden[0], weight, labels[0], lengths=lengths)
        assert words in str(error.value)
    with pytest.raises(ValueError, match="told apart by lengths"):
        token_losses(hidden[0], weight, labels[0])


@pytest.mark.parametrize("module", ["losses", "token_file"])
def test_the_examples_run(module, capsys):
    text = importlib.import_module(f"dsenv.text.{module}").__doc__
    (block,) = re.findall(r"::\n\n((?:    .*\n|\n)+)", text)
    exec(compile(textwrap.dedent(block), module, "exec"), {})
    assert "tensor(" in capsys.readouterr().out


def test_logits_of_a_wrong_kind_are_named():
    with pytest.raises(ValueError, match="logits must be a floating tensor"):
        from_logits(torch.zeros(2, 3, 4, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="V of at least 2"):
        from_logits(torch.zeros(2, 3, 1), torch.zeros(2, 3, dtype=torch.int64))
