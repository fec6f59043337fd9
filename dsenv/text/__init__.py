"""Causal language models: losses and signals of each sample, tokens in files, batches of several lengths."""

from dsenv.text.causal_lm import causal_lm_losses
from dsenv.text.encode import Collate, encode_pair
from dsenv.text.losses import Head, TextLosses, from_logits, token_losses
from dsenv.text.token_file import TokenFile, write_tokens

__all__ = [
    "Collate",
    "Head",
    "TextLosses",
    "TokenFile",
    "causal_lm_losses",
    "encode_pair",
    "from_logits",
    "token_losses",
    "write_tokens",
]
