"""The decoder: its size, its causality, and what it refuses."""

import pytest
import torch

from dsenv.catalogue import build_part
from dsenv.tasks.decoder import decoder
from dsenv.tasks.task import MODELS

TOKENS = torch.arange(24).remainder(11).view(2, 12)


@pytest.mark.fast
def test_the_decoder_has_the_promised_size_and_is_built_by_name():
    known = {"sample_shape": (14,), "classes": 48}
    model = build_part("model", MODELS, "decoder", known, torch.nn.Module)
    assert 300_000 < sum(p.numel() for p in model.parameters()) < 330_000
    assert model(torch.zeros(3, 14, dtype=torch.int64)).shape == (3, 14, 48)


@pytest.mark.fast
def test_no_token_sees_those_behind_it():
    model = decoder((12,), 11, width=16, layers=2, heads=2).eval()
    changed = TOKENS.clone()
    changed[:, 7:] = 3
    one, other = model(TOKENS), model(changed)
    torch.testing.assert_close(one[:, :7], other[:, :7])
    assert not torch.allclose(one[:, 7:], other[:, 7:], atol=1e-3)
    torch.testing.assert_close(model(TOKENS[:, :5]), one[:, :5])


def test_attention_is_that_of_its_formula():
    torch.manual_seed(0)
    model = decoder((12,), 11, width=8, layers=1, heads=2)
    block = model.blocks[0]
    hidden = torch.randn(2, 12, 8)
    query, key, value = block.query_key_value(block.attention_norm(hidden)).split(8, -1)
    parts = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = query[..., head] @ key[..., head].mT / 2
        scores = scores.masked_fill(torch.ones(12, 12).triu(1).bool(), -torch.inf)
        parts.append(scores.softmax(-1) @ value[..., head])
    middle = hidden + block.attended(torch.cat(parts, -1))
    wanted = middle + block.linear(block.linear_norm(middle))
    torch.testing.assert_close(block(hidden), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.fast
def test_width_is_a_multiple_of_the_heads_at_any_factor():
    for factor, width in ((1.0, 16), (0.5, 8), (0.4, 6), (0.01, 2)):
        assert decoder((12,), 11, 16, 1, 2, width_factor=factor).token.embedding_dim == width


@pytest.mark.fast
@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((3, 8, 8), {}, r"rows of tokens \(T,\), got samples of shape \(3, 8, 8\)"),
        ((12,), {"width": 10, "heads": 4}, "multiple of heads, 4, got 10"),
        ((12,), {"layers": 0}, "decoder: layers must be"),
        ((0,), {}, "decoder: tokens of a row must be"),
        ((12,), {"width_factor": 0.0}, "width_factor"),
    ],
)
def test_what_does_not_fit_is_refused(shape, settings, message):
    with pytest.raises(ValueError, match=message):
        decoder(shape, 11, **settings)


@pytest.mark.fast
@pytest.mark.parametrize("tokens", [TOKENS.float(), TOKENS[0], torch.zeros(2, 13, dtype=torch.int64)])
def test_inputs_that_are_no_rows_of_tokens_are_refused(tokens):
    with pytest.raises(ValueError, match="decoder takes int64 tokens"):
        decoder((12,), 11, 8, 1, 2)(tokens)
