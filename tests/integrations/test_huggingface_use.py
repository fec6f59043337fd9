"""Plans in the Trainer: losses by hand, kinds of task, collators, what users do, what is refused."""

import copy
import os
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("trl", reason="trl is not installed: pip install dsenv-rl[huggingface]")
from datasets import Dataset
from torch.utils.data import IterableDataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTTrainer

from dsenv.integrations.huggingface import DataPlanMixin, SampleLosses
from dsenv.plan import DataPlan, FeatureForward, IndexedCollate
from tests.integrations import huggingface_cases as cases
from tests.integrations.huggingface_cases import (
    ClassTrainer,
    TextTrainer,
    V,
    arguments,
    bert,
    rows,
    tokenizer,
)

HALF = {"selector": "infobatch", "ratio": 0.5}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def first_batch(trainer):
    """A batch as the Trainer's loop takes it, and its items."""
    trainer._is_compared = False
    batch = next(iter(trainer.get_train_dataloader()))
    return batch, trainer._get_num_items_in_batch([batch], trainer.args.device)


@pytest.mark.parametrize("task", ["classification", "causal", "sft", "sft flat", "causal flat"])
def test_the_loss_is_that_of_its_definition(task, tmp_path, monkeypatch):
    """Sum of weight x loss over the samples, or over their tokens, over the items of the step."""
    name, _, form = task.partition(" ")
    flat = {"padding_free": True} if task == "sft flat" else {}
    trainer = cases.TASKS[name](tmp_path, plan=HALF, **flat)
    if task == "causal flat":
        trainer.data_collator = DataCollatorWithFlattening()
    batch, items = first_batch(trainer)
    make, index = trainer.plan.batch, batch["dsenv_batch"].index[:, 0]
    weight = torch.arange(1.0, len(index) + 1) / 3
    monkeypatch.setattr(
        trainer.plan, "batch", lambda *given, **named: make(*given, **named)._replace(weight=weight)
    )
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)

    expected, units = 0.0, 0
    for position, factor in zip(index.tolist(), weight.tolist(), strict=True):
        sample = trainer.train_dataset[position]
        tokens = torch.tensor([sample["input_ids"]])
        logits = trainer.model(tokens).logits
        if name == "classification":
            expected += factor * F.cross_entropy(logits, torch.tensor([sample["labels"]]))
            units += 1
            continue
        labels = torch.tensor(sample.get("labels", sample["input_ids"]))
        if name == "causal" and form != "flat":
            labels = tokens[0]
        expected += factor * F.cross_entropy(logits[0, :-1], labels[1:], ignore_index=-100, reduction="sum")
        units += int((labels[1:] != -100).sum())
    assert int(items) == units
    torch.testing.assert_close(loss, expected / units, atol=1e-5, rtol=1e-5)


def test_the_fused_head_tells_the_same_signals_as_logits(tmp_path):
    trainer = cases.sft(tmp_path, plan=HALF)
    batch, items = first_batch(trainer)
    said = {}
    trainer.plan.observe = lambda _, losses, **named: said.update(named, loss=losses)
    trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
    logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    wanted = trainer.plan.kind.readings(logits, batch["labels"])
    torch.testing.assert_close(said["loss"], wanted.loss.detach(), atol=1e-5, rtol=0)
    assert torch.equal(said["tokens"], wanted.tokens)
    for name, value in said["signals"].items():
        torch.testing.assert_close(value, wanted.signals[name], atol=1e-5, rtol=0)


# Kinds of task


def new(model, samples, tmp_path, collator=None, plan=HALF, **settings):
    own = {"eval_strategy": "no", "logging_strategy": "no", "num_train_epochs": 2, **settings}
    return ClassTrainer(
        model=model,
        args=TrainingArguments(**arguments(tmp_path, **own)),
        train_dataset=samples,
        data_collator=collator,
        processing_class=tokenizer(),
        plan=plan,
    )


def test_numbers_and_several_labels(tmp_path):
    numbers = [{**row, "labels": float(place % 5)} for place, row in enumerate(rows())]
    small = BertConfig(vocab_size=V, num_labels=1, **cases.SMALL)
    trainer = new(BertForSequenceClassification(small), Dataset.from_list(numbers), tmp_path)
    trainer.train()
    assert trainer.plan.kind.name == "regression" and trainer.plan.metrics()["accuracy/training loss"] > 0

    several = [
        {**row, "labels": [float(place % 2), float(place % 3 == 0)]} for place, row in enumerate(rows())
    ]
    small = BertConfig(vocab_size=V, num_labels=2, **cases.SMALL)
    trainer = new(BertForSequenceClassification(small), Dataset.from_list(several), tmp_path)
    trainer.train()
    assert trainer.plan.kind.name == "multilabel"


def test_masked_tokens_do_not_depend_on_workers_and_samples_without_any_are_said(tmp_path):
    samples = Dataset.from_list(rows(labels="none"))
    config = BertConfig(
        vocab_size=V, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **cases.SMALL
    )
    found = []
    for workers in (0, 2):
        torch.manual_seed(0)
        masking = DataCollatorForLanguageModeling(tokenizer())
        trainer = new(
            BertForMaskedLM(config), samples, tmp_path, masking, workers=workers, num_train_epochs=1
        )
        with pytest.warns(UserWarning, match="not finite: loss of"):
            trainer.train()
        found.append(torch.cat([value.detach().flatten() for value in trainer.model.parameters()]))
        assert trainer.plan.kind.shifted and trainer.plan.cost.tokens < 32 * 4
    assert torch.equal(*found) and bool(found[0].isfinite().all())


def test_an_encoder_with_a_decoder(tmp_path):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=V, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        dropout_rate=0.0,
    )  # fmt: skip
    samples = [{**row, "labels": row["input_ids"][::-1]} for row in rows()]
    model = T5ForConditionalGeneration(config)
    trainer = new(
        model, Dataset.from_list(samples), tmp_path, DataCollatorForSeq2Seq(tokenizer(), model=model)
    )
    trainer.train()
    assert trainer.plan.kind.shifted and trainer.plan.cost.trained == 64


def test_packs_are_the_samples(tmp_path):
    trainer = cases.sft(
        tmp_path, plan=HALF, packing=True, max_length=24, per_device_train_batch_size=4, eval_strategy="no"
    )
    packs = len(trainer.train_dataset)
    assert packs < cases.SIZE / 2 and trainer.plan.signals.size == packs
    cases.Seen(trainer)
    trainer.train()
    assert trainer.plan.cost.trained == 4 * round(packs / 2)


def test_lora_trains_its_weights_alone(tmp_path):
    trainer = cases.sft(tmp_path, plan=HALF, peft=True)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not value.equal(before[name])}
    assert changed and all("lora_" in name for name in changed)
    assert trainer.plan.cost.trained == 128


# Collators


def test_collators_of_ones_own_are_followed(tmp_path):
    """One that sorts, one that leaves samples out, one that gives no table."""
    pad = DataCollatorWithPadding(tokenizer())

    def sorting(samples):
        return pad(sorted(samples, key=lambda sample: -len(sample["input_ids"])))

    trainer = new(bert(0.0), Dataset.from_list(rows()), tmp_path, sorting)
    cases.Seen(trainer)
    trainer.train()

    def short(samples):
        return pad([sample for sample in samples if len(sample["input_ids"]) < 9])

    trainer = new(bert(0.0), Dataset.from_list(rows()), tmp_path, short)
    seen = cases.Seen(trainer)
    with pytest.warns(UserWarning, match="the collate function left out"):
        trainer.train()
    assert all(len(cases.tokens_of(position)) < 9 for batch in seen.batches for position in batch["index"])

    def as_list(samples):
        return [len(samples)]

    as_list.keeps_order = True
    trainer = new(bert(0.0), Dataset.from_list(rows()), tmp_path, as_list)
    with pytest.raises(ValueError, match="gives a table"):
        trainer.train()


# What a user does


def test_a_tutorial(tmp_path):
    samples = Dataset.from_list(rows())

    def accuracy(said):
        return {"accuracy": float((said.predictions.argmax(-1) == said.label_ids).mean())}

    often = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    own = {"metric_for_best_model": "accuracy", "save_total_limit": 2, "warmup_steps": 0.1, "bf16": True}
    own |= {"activation_checkpointing": True, "data_seed": 7, "logging_steps": 3, "max_grad_norm": 0.5}
    trainer = ClassTrainer(
        model=bert(),
        args=TrainingArguments(**arguments(tmp_path, **often, **own, logging_strategy="steps")),
        train_dataset=samples,
        eval_dataset=samples.select(range(20)),
        compute_metrics=accuracy,
        processing_class=tokenizer(),
        callbacks=[EarlyStoppingCallback(2)],
        plan={"policy": "curriculum", "ratio": 0.5},
    )
    watch = cases.Watch()
    trainer.add_callback(watch)
    trainer.train()
    ends = watch.ended
    assert len(ends) in (3, 4) and watch.evaluated == watch.saved == ends
    assert trainer.plan.epoch_sampler.seed == 7
    assert len([name for name in os.listdir(tmp_path) if name.startswith("checkpoint-")]) <= 2
    accuracies = [log["eval_accuracy"] for log in trainer.state.log_history if "eval_accuracy" in log]
    assert trainer.plan.epoch_sampler.policies.runners[0].reported == pytest.approx(accuracies[-1])
    before = copy.deepcopy(trainer.plan.state_dict()["feedback"]["cost"])
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    assert trainer.predict(samples.select(range(5))).predictions.shape == (5, cases.CLASSES)
    assert trainer.plan.state_dict()["feedback"]["cost"] == before
    assert 0 < len(trainer.plan.suspects()) <= cases.SIZE


def test_max_steps_and_a_second_training(tmp_path):
    given = {"eval_strategy": "no", "max_steps": 5, "num_train_epochs": 9}
    trainer = cases.classification(tmp_path, plan=HALF, **given)
    trainer.train()
    assert trainer.state.global_step == 5 and trainer.plan.epochs == 3
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    first = trainer.plan
    trainer.train()
    assert trainer.plan is not first and trainer.plan.cost.trained == 5 * 16
    with pytest.raises(ValueError, match="max_steps=5 and no ratio"):
        cases.classification(tmp_path, plan={"selector": "infobatch"}, **given)


def test_batches_of_similar_length_and_a_ratio_of_tokens(tmp_path):
    grouped = cases.classification(
        tmp_path, plan=HALF, eval_strategy="no", train_sampling_strategy="group_by_length"
    )
    lengths = [len(cases.tokens_of(position)) for position in range(cases.SIZE)]
    assert grouped.plan.epoch_sampler.lengths.tokens.tolist() == lengths
    by_tokens = cases.sft(tmp_path, plan={**HALF, "selector": "small_loss", "ratio_of": "tokens"})
    by_tokens.train()
    assert by_tokens.plan.cost.tokens == pytest.approx(2 * sum(lengths), rel=0.1)
    assert by_tokens.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert by_tokens.state.max_steps == by_tokens.state.global_step


class Own(torch.nn.Module):
    """A model of one's own, without a configuration; it gives a pair."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(V, 8), torch.nn.Linear(8, cases.CLASSES)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.head(self.embed(input_ids).mean(1))
        return logits if labels is None else (F.cross_entropy(logits, labels), logits)


def test_a_module_of_ones_own_whose_kind_is_said(tmp_path):
    trainer = new(
        Own(), Dataset.from_list(rows()), tmp_path, plan={**HALF, "kind": "classification", "classes": 3}
    )
    trainer.train()
    assert trainer.plan.cost.trained == 64 and trainer.plan.metrics()["accuracy/training"] >= 0


def test_metrics_of_a_last_batch_are_not_cut(tmp_path):
    trainer = new(bert(), Dataset.from_list(rows()[:50]), tmp_path)
    loader = trainer.get_train_dataloader()
    assert len(list(loader)) == 2 and loader.gradient_state.remainder in (0, -1)
    one = iter(loader)
    next(one)
    assert loader.gradient_state.remainder == 0


def test_without_a_plan_it_is_the_trainer_as_it_was(tmp_path):
    found = []
    for cls in (ClassTrainer, Trainer):
        trainer = cls(
            model=bert(),
            args=TrainingArguments(**arguments(tmp_path, eval_strategy="no", num_train_epochs=1)),
            train_dataset=Dataset.from_list(rows()),
            processing_class=tokenizer(),
        )
        trainer.train()
        found.append(torch.cat([value.detach().flatten() for value in trainer.model.parameters()]))
    assert torch.equal(*found)


def test_losses_of_ones_own_and_of_batches(tmp_path):
    factor = torch.tensor([1.0, 2.0, 3.0])

    class Weighted(ClassTrainer):
        def sample_losses(self, model, inputs, lengths=None):
            logits = model(**inputs).logits
            losses = F.cross_entropy(logits, inputs["labels"], reduction="none", weight=factor)
            return SampleLosses(losses, said={"logits": logits})

    class BatchMean(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs)
            loss = F.cross_entropy(outputs.logits, inputs["labels"], weight=factor)
            return (loss, outputs) if return_outputs else loss

    class Mixed(DataPlanMixin, BatchMean):
        pass

    given = {"eval_strategy": "no", "num_train_epochs": 2}
    for cls, plan in ((Weighted, {**HALF, "classes": 3}), (Mixed, {**HALF, "loss_of": "batch"})):
        trainer = cls(
            model=bert(),
            args=TrainingArguments(**arguments(tmp_path, **given, accumulation=2)),
            train_dataset=Dataset.from_list(rows()),
            processing_class=tokenizer(),
            plan=plan,
        )
        trainer.train()
        assert trainer.plan.cost.trained == 64 and trainer.state.global_step == 4
    with pytest.raises(ValueError, match=r"BatchMean.compute_loss makes its own loss.*sample_losses"):
        Mixed(model=bert(), args=TrainingArguments(**arguments(tmp_path, **given)), plan=HALF)


# What is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches=True"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches=True"),
        ({"dataloader_in_order": False, "workers": 1}, "dataloader_in_order=False"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy='sequential'"),
        ({"num_train_epochs": 2.5}, r"num_train_epochs=2.5: .* give 2, or max_steps"),
        ({"plan": {"epochs": 3}}, r"num_train_epochs"),
        ({"plan": {"selectr": "random"}}, "selector"),
        ({"plan": {"augment": "sada"}}, "augment"),
        ({"plan": "infobatch"}, "must be a table"),
    ],
)
def test_what_a_plan_cannot_go_with_is_refused(tmp_path, settings, words):
    plan = settings.pop("plan", HALF)
    with pytest.raises(ValueError, match=words):
        cases.classification(tmp_path, plan=plan, **settings)


def test_streams_losses_and_models_that_are_not_known_are_refused(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(rows())

    with pytest.raises(ValueError, match=r"is a stream \(Stream\)"):
        new(bert(), Stream(), tmp_path, max_steps=3)
    with pytest.raises(ValueError, match="is a stream"):
        new(bert(), Dataset.from_list(rows()).to_iterable_dataset(), tmp_path, max_steps=3)

    own = {"train_dataset": Dataset.from_list(rows()), "processing_class": tokenizer(), "plan": HALF}
    args = TrainingArguments(**arguments(tmp_path, eval_strategy="no"))
    with pytest.raises(ValueError, match="compute_loss_func"):
        ClassTrainer(model=bert(), args=args, compute_loss_func=F.cross_entropy, **own)
    with pytest.raises(ValueError, match="loss_type='dft'"):
        cases.sft(tmp_path, plan=HALF, loss_type="dft")
    with pytest.raises(ValueError, match=r"label_smoothing_factor=0.1.*kind 'language'"):
        cases.causal(tmp_path, plan=HALF, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="not known which kind of task Headless"):
        ClassTrainer(model=type("Headless", (torch.nn.Linear,), {})(2, 3), args=args, **own)
    for order in ((DataPlanMixin,), (SFTTrainer, DataPlanMixin)):
        with pytest.raises(ValueError, match="the mixin stands before"):
            cls = type("Wrong", order, {"__init__": DataPlanMixin.__init__})
            cls(plan=HALF)


class Halved(BertForSequenceClassification):
    """Trains on another loss than its logits say."""

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        found = super().forward(input_ids, attention_mask, labels=labels)
        found["loss"] = found["loss"] / 2
        return found


def test_a_model_that_trains_on_something_else_is_refused_at_the_first_batch(tmp_path):
    model = Halved(bert().config)
    trainer = new(model, Dataset.from_list(rows()), tmp_path)
    with pytest.raises(ValueError, match=r"Halved says .* first batch is 0.5.*sample_losses"):
        trainer.train()


@pytest.mark.parametrize("when", ["before", "in epoch 1"])
def test_selectors_that_rank_by_a_pass_are_scored_by_the_trainers_collator(when, tmp_path):
    class Score(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **named):
            if state.epoch == 1:
                score(trainer)

    def score(trainer):
        before = torch.get_rng_state()
        trainer.score(FeatureForward(trainer.model, trainer.model.classifier))
        assert torch.equal(torch.get_rng_state(), before) and trainer.model.training == (when != "before")

    plan = {"selector": "k_center", "ratio": 0.5, "uniform_epochs": int(when != "before")}
    trainer = new(bert(), Dataset.from_list(rows()), tmp_path, plan=plan, num_train_epochs=3)
    if when == "before":
        trainer.model.eval()
        with pytest.raises(ValueError, match=r"call trainer\.score\(\) before trainer\.train\(\)"):
            trainer.train()
        score(trainer)
    else:
        trainer.add_callback(Score())
    trainer.train()
    assert trainer.plan.cost.extra_forwards == len(rows())
    assert trainer.plan.cost.trained == 3 * len(rows()) // 2 - len(rows()) // 3  # a pass costs a third
    assert trainer.state.global_step == trainer.state.max_steps


def test_what_a_selector_lacks_in_the_trainer_is_said_with_what_to_do_there(tmp_path):
    with pytest.raises(ValueError, match=r"reads the margin .* fused head of SFTTrainer .* plain Trainer"):
        cases.sft(tmp_path, plan={"selector": "trim", "ratio": 0.5}).train()
    trainer = new(bert(), Dataset.from_list(rows()), tmp_path, plan={"selector": "data_agent", "ratio": 0.5})
    with pytest.raises(ValueError, match=r"needs the features .* sample_losses"):
        trainer.train()
    plain = new(bert(), Dataset.from_list(rows()), tmp_path, plan=None)
    with pytest.raises(ValueError, match="no plan to score"):
        plain.score()


def mixture(coefficient):
    torch.manual_seed(0)
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=V, num_key_value_heads=2, num_local_experts=4, pad_token_id=0,
            output_router_logits=True, router_aux_loss_coef=coefficient, **cases.SMALL,
        )
    )  # fmt: skip


@pytest.mark.parametrize("autocast", [False, True])
def test_an_auxiliary_loss_of_experts_is_not_left_out_without_a_word(autocast, tmp_path):
    """Its usual coefficient, 0.001, changes the loss by less than a thousandth."""
    tokens = [{"input_ids": row["input_ids"]} for row in rows()]
    collator = DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    own = {"num_train_epochs": 1, "bf16": autocast}
    trainer = new(mixture(0.001), Dataset.from_list(tokens), tmp_path, collator, **own)
    with pytest.raises(ValueError, match=r"Mixtral.* says .*an auxiliary loss.*sample_losses"):
        trainer.train()
    new(mixture(0.0), Dataset.from_list(tokens), tmp_path, collator, **own).train()


def test_checkpoints_that_a_plan_cannot_go_on_from_are_refused(tmp_path):
    plain = cases.classification(tmp_path / "plain", plan=None, save_strategy="epoch", num_train_epochs=1)
    plain.train()
    (name,) = os.listdir(tmp_path / "plain")
    with pytest.raises(ValueError, match="of a Trainer without a plan"):
        cases.train("classification", tmp_path, resume=str(tmp_path / "plain" / name))

    cases.train("classification", tmp_path / "stop", stop=3)
    with pytest.raises(ValueError, match="ignore_data_skip=True"):
        cases.train("classification", tmp_path / "stop", resume=True, ignore_data_skip=True)
    with pytest.raises(ValueError, match="epochs"):
        cases.train("classification", tmp_path / "stop", resume=True, num_train_epochs=6)


def test_a_loader_of_ones_own_is_refused(tmp_path):
    class Own(TextTrainer):
        def get_train_dataloader(self):
            return Trainer.get_train_dataloader(self)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Own(
            model=cases.llama(),
            args=cases.SFTConfig(**arguments(tmp_path, eval_strategy="no"), max_length=None, bf16=False),
            train_dataset=Dataset.from_list(rows(labels="answer")).remove_columns("attention_mask"),
            processing_class=tokenizer(),
            plan=HALF,
        )
    with pytest.raises(ValueError, match="does not say which samples it holds"):
        trainer.train()


@pytest.mark.parametrize("shard", ["rank", "global"])
def test_a_plan_in_a_trainer_without_the_adapter_is_refused_by_its_name(tmp_path, shard):
    class Own(Trainer):
        def _get_train_sampler(self, *given):
            return plan.new_sampler(shard)

    plan = DataPlan(rows(), epochs=4, batch_size=16, classes=3, selector="random", ratio=0.5)
    given = {"eval_strategy": "no", "remove_unused_columns": False}
    collate = IndexedCollate(DataCollatorWithPadding(tokenizer()), keeps_order=True)
    args = TrainingArguments(**arguments(tmp_path, **given))
    trainer = Own(model=bert(), args=args, train_dataset=plan.dataset, data_collator=collate)
    with pytest.raises(ValueError, match=r"class MyTrainer\(DataPlanMixin, Trainer\)"):
        trainer.train()


class Probe(cases.TrainerCallback):
    """Trains a small model of its own by a plan, in a callback."""

    def on_train_begin(self, args, state, control, **rest):
        plan = DataPlan((torch.rand(20, 3), torch.arange(20) % 2), epochs=1, batch_size=10)
        self.seen = [len(batch.index) for _ in plan.epochs_left() for batch in plan.batches()]


@pytest.mark.filterwarnings("ignore:epoch 0 ended without plan.loss")
def test_what_a_callback_does_with_a_plan_of_its_own_is_not_the_trainers(tmp_path):
    probe = Probe()
    trainer = cases.classification(tmp_path, plan=HALF, num_train_epochs=1)
    trainer.add_callback(probe)
    trainer.train()
    assert probe.seen == [10, 10]


def test_code_blocks_of_the_page_run():
    page = Path(__file__).resolve().parents[2] / "docs" / "huggingface.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "docs/huggingface.md", "exec"), names)
    assert len(blocks) == 4 and names["trainer"].plan.cost.trained == 192
    assert names["sft"].plan.cost.tokens > 0 and names["weighted"].plan.epoch == 3
