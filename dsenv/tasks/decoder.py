"""A small causal language model in the style of GPT-2 (Radford et al., 2019), for rows of tokens."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsenv.errors import check_count, check_share, shown

LONGEST = 4096  # tokens of a row
WIDEST = 4096
DEEPEST = 64
MOST_TOKENS = 1 << 20  # of a vocabulary


def decoder(
    sample_shape: tuple[int, ...],
    classes: int,
    width: int = 112,
    layers: int = 2,
    heads: int = 4,
    width_factor: float = 1.0,
) -> nn.Module:
    """A decoder with causal attention and learned positions: logits (B, T, V) of tokens (B, T).

    Blocks normalise first, as in GPT-2, without dropout; by default there are about 0.3 million parameters.

    Use::

        import torch
        from dsenv.tasks.decoder import decoder

        model = decoder((17,), 50)
        print(model(torch.randint(0, 50, (8, 17))).shape)

    Args:
        sample_shape: (T,), the longest row; shorter ones are taken too.
        classes: V, tokens of the vocabulary, at least 2.
        width: numbers for each token between the layers, a multiple of `heads`.
        layers: blocks.
        heads: heads of the attention of each block.
        width_factor: share of the width to build, (0, 1], rounded to a multiple of `heads`.

    Raises:
        ValueError: samples are no rows of tokens, a size is out of range, or the width does not divide.
    """
    vocabulary, length = _sizes(sample_shape, classes)
    width = check_count("decoder: width", width, 1, WIDEST)
    layers = check_count("decoder: layers", layers, 1, DEEPEST)
    heads = check_count("decoder: heads", heads, 1, width)
    if width % heads:
        raise ValueError(f"decoder: width must be a multiple of heads, {heads}, got {width}")

    share = check_share("decoder: width_factor", width_factor)
    return Decoder(vocabulary, length, heads * max(1, round(share * width / heads)), layers, heads)


def _sizes(sample_shape: Any, classes: Any) -> tuple[int, int]:
    """Tokens of the vocabulary and of the longest row, checked."""
    if not isinstance(sample_shape, tuple | list) or len(sample_shape) != 1:
        raise ValueError(
            f"decoder needs rows of tokens (T,), got samples of shape {shown(sample_shape)}; "
            "use mlp or small_cnn"
        )
    vocabulary = check_count("decoder: classes, the tokens of the vocabulary,", classes, 2, MOST_TOKENS)
    return vocabulary, check_count("decoder: tokens of a row", sample_shape[0], 1, LONGEST)


class Decoder(nn.Module):
    """See `decoder`, which checks the arguments."""

    def __init__(self, vocabulary: int, length: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) of what comes after each of the tokens (B, T).

        Raises:
            ValueError: they are no int64 rows, or longer than the longest row.
        """
        longest = self.position.num_embeddings
        if tokens.dtype != torch.int64 or tokens.dim() != 2 or tokens.shape[1] > longest:
            raise ValueError(
                f"decoder takes int64 tokens (B, T) with T at most {longest}, got {tokens.dtype} "
                f"{tuple(tokens.shape)}"
            )
        hidden = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(hidden)))
        return logits


class Block(nn.Module):
    """Attention to the tokens before, then two linear layers; both add to what comes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.linear_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.linear = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        split = self.query_key_value(self.attention_norm(hidden)).view(batch, length, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        found: Any = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.attended(found.transpose(1, 2).reshape(batch, length, width))
        added: Tensor = self.linear(self.linear_norm(hidden))
        return hidden + added
