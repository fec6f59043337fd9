"""Losses of models of `transformers` equal those of their own logits, or the model is refused by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dsenv.text import Collate, causal_lm_losses

transformers = pytest.importorskip("transformers", reason="needs pip install 'dsenv-rl[text]'")
pytestmark = pytest.mark.fast

V = 50
SHAPE = {
    "vocab_size": V,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "head_dim": 8,
    "pad_token_id": 0,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": V, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "bos_token_id": 1}
MODELS = {
    "Llama": SHAPE,
    "Qwen2": SHAPE,
    "GPT2": {**GPT2, "eos_token_id": 2},
    "Gemma2": {**SHAPE, "final_logit_softcapping": 2.0},
    "Granite": {**SHAPE, "logits_scaling": 4.0},
    "Cohere": {**SHAPE, "logit_scale": 0.25},
}


def model_of(name, **more):
    torch.manual_seed(0)
    kind = f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    config = getattr(transformers, f"{name}Config")(**{**MODELS[name], **more})
    return getattr(transformers, kind)(config).eval()


def samples():
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(V, (length,), generator=draw) for length in (5, 9, 3)]
    return [{"input_ids": row, "labels": row.clone().index_fill_(0, torch.arange(2), -100)} for row in rows]


def by_logits(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    asked = batch["labels"][:, 1:]
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), asked, reduction="none")
    return losses.sum(1) / (asked >= 0).sum(1)


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_equal_those_of_the_models_own_logits(name):
    model = model_of(name)
    with torch.no_grad():  # large enough for a cap to be felt
        model.get_output_embeddings().weight.mul_(20)
    batch, weight = Collate(0)(samples()), torch.tensor([1.0, 0.5, 2.0])
    for _ in range(2):  # the first call looks at the head, the others do not
        found, theirs = causal_lm_losses(model, batch), by_logits(model, batch)
        torch.testing.assert_close(found.loss, theirs, rtol=1e-5, atol=1e-5)
        parameters = [each for each in model.parameters() if each.requires_grad]
        own = torch.autograd.grad((found.loss * weight).sum(), parameters)
        other = torch.autograd.grad((theirs * weight).sum(), parameters)
        for mine, yours in zip(own, other, strict=True):
            torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-5)

    flat = causal_lm_losses(model, Collate(flat=True)(samples()))
    torch.testing.assert_close(flat.loss, theirs, rtol=1e-5, atol=1e-5)


def test_its_mean_by_tokens_is_the_loss_of_the_model_itself():
    model, batch = model_of("Llama"), Collate(0)(samples())
    found = causal_lm_losses(model, batch)
    torch.testing.assert_close(found.sums.sum() / found.tokens.sum(), model(**batch).loss)


def test_padding_never_counts_whatever_its_labels_are():
    model, batch = model_of("Llama"), Collate(0)(samples())
    asked = batch["labels"].masked_fill(batch["attention_mask"] == 0, 7)
    found, wanted = causal_lm_losses(model, {**batch, "labels": asked}), causal_lm_losses(model, batch)
    assert found.tokens.equal(wanted.tokens) and found.loss.equal(wanted.loss)


def test_padding_on_the_left_is_the_same():
    model = model_of("Llama")
    rows = [{"input_ids": row["input_ids"]} for row in samples()]  # plain texts: all tokens are asked for
    right = Collate(0)(rows)
    padding = (right["attention_mask"] == 0).sum(1).tolist()
    left = {name: _moved(values, padding) for name, values in right.items()}
    assert left["attention_mask"][2].tolist() == [0] * 6 + [1] * 3
    found, wanted = causal_lm_losses(model, left), causal_lm_losses(model, right)
    assert found.tokens.tolist() == wanted.tokens.tolist() == [4, 8, 2]
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-4, atol=1e-5)


def _moved(values, places):
    return torch.stack([row.roll(number) for row, number in zip(values, places, strict=True)])


def test_a_pack_is_a_sample_and_its_texts_do_not_see_each_other():
    model = model_of("Llama")
    texts = [row["input_ids"] for row in samples()]
    pack = {
        "input_ids": torch.cat(texts)[None],
        "labels": torch.cat(texts)[None],
        "position_ids": torch.cat([torch.arange(len(text)) for text in texts])[None],
    }
    found = causal_lm_losses(model, pack)
    single = causal_lm_losses(model, Collate(0)([{"input_ids": text} for text in texts]))
    assert found.tokens.tolist() == [14] and single.tokens.tolist() == [4, 8, 2]
    torch.testing.assert_close(found.sums, single.sums.sum()[None], rtol=1e-5, atol=1e-5)


def test_under_autocast_and_in_bfloat16():
    model, batch = model_of("Llama"), Collate(0)(samples())
    exact = causal_lm_losses(model, batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        found = causal_lm_losses(model, batch)
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss, exact, rtol=0.02, atol=0.02)
    half = causal_lm_losses(model_of("Llama").bfloat16(), batch)
    torch.testing.assert_close(half.loss, exact, rtol=0.02, atol=0.02)
    half.loss.sum().backward()


def test_the_head_is_run_on_one_token_after_the_first_call():
    model, batch = model_of("Llama"), Collate(0)(samples())
    shapes = []
    model.lm_head.register_forward_hook(lambda *hooked: shapes.append(tuple(hooked[2].shape)))
    causal_lm_losses(model, batch)
    causal_lm_losses(model, batch)
    assert shapes == [(1, 4, V), (1, 1, V)]
    assert not model.lm_head._forward_pre_hooks


class Changed(nn.Module):
    """A model around another one, which makes something else of its logits."""

    def __init__(self, change):
        super().__init__()
        self.inner, self.change = model_of("Llama"), change
        self.config = self.inner.config

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    def forward(self, **inputs):
        found = self.inner(**inputs)
        found.logits = self.change(found.logits)
        return found


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits * 1.5,
        lambda logits: 30 * torch.tanh(logits / 30),  # of the small logits of a new model it changes nothing
        lambda logits: logits - logits.mean(-1, keepdim=True) * 2,
        lambda logits: logits[..., :-1],
    ],
)
def test_what_the_model_makes_of_its_head_is_not_overlooked(change):
    with pytest.raises(ValueError, match=r"Changed.*from_logits"):
        causal_lm_losses(Changed(change), Collate(0)(samples()))


def test_a_configuration_that_says_what_the_model_does_not_do():
    model = model_of("Llama")
    model.config.logits_scaling = 8.0
    with pytest.raises(ValueError, match=r"scale 0\.125"):
        causal_lm_losses(model, Collate(0)(samples()))


def test_heads_that_cannot_be_followed_are_named():
    batch = Collate(0)(samples())
    with pytest.raises(ValueError, match="has no get_output_embeddings"):
        causal_lm_losses(nn.Linear(3, 3), batch)

    adapted = model_of("Llama")
    adapted.lm_head.register_parameter("lora_A", nn.Parameter(torch.zeros(2, 16)))
    with pytest.raises(ValueError, match="lora_A"):
        causal_lm_losses(adapted, batch)

    twice = model_of("Llama")
    inner = twice.model.forward
    twice.model.forward = lambda *given, **named: (
        twice.lm_head(torch.zeros(1, 1, 16)),
        inner(*given, **named),
    )[1]
    with pytest.raises(ValueError, match="calls its head 2 times"):
        causal_lm_losses(twice, batch)


def test_a_loss_of_the_models_own_is_not_lost():
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**SHAPE, num_local_experts=2, output_router_logits=True)
    with pytest.raises(ValueError, match="output_router_logits = False"):
        causal_lm_losses(transformers.MixtralForCausalLM(config), Collate(0)(samples()))


def test_bad_batches_are_named():
    model, batch = model_of("Llama"), Collate(0)(samples())
    without = {name: value for name, value in batch.items() if name != "labels"}
    flat = Collate(flat=True)(samples())
    del flat["position_ids"]
    for given, words in (
        ([1], "give batch.inputs"),
        (without, "the batch has no labels"),
        (flat, "need position_ids"),
        ({**batch, "input_ids": batch["input_ids"] + V}, f"knows 0 to {V - 1}"),
        ({**batch, "labels": torch.full_like(batch["labels"], -100)}, "no token is asked for"),
        ({**batch, "labels": batch["labels"].clamp(min=0) + V}, f"0 to {V - 1}"),
    ):
        with pytest.raises(ValueError) as error:
            causal_lm_losses(model, given)
        assert words in str(error.value)


def test_adapters_of_peft_beside_the_head():
    peft = pytest.importorskip("peft", reason="needs pip install peft")
    batch = Collate(0)(samples())
    model = peft.get_peft_model(model_of("Llama"), peft.LoraConfig(target_modules=["q_proj"], r=2))
    found = causal_lm_losses(model, batch)
    torch.testing.assert_close(found.loss, by_logits(model, batch), rtol=1e-5, atol=1e-5)
    found.loss.sum().backward()
    trained = {name for name, each in model.named_parameters() if each.grad is not None}
    assert trained and all("lora" in name for name in trained)
    with pytest.raises(ValueError, match="lora_A"):
        causal_lm_losses(
            peft.get_peft_model(model_of("Llama"), peft.LoraConfig(target_modules=["lm_head"])), batch
        )
