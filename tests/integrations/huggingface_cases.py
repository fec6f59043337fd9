"""Training runs under the Trainer of transformers and TRL's SFTTrainer, one process or one of several ranks.

Samples say which one they are: the first two tokens of sample i are 4 + i // 10 and 4 + i % 10. What a batch
held is looked at when the plan takes its losses.
"""

import itertools
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from dsenv.integrations.huggingface import DataPlanMixin, SampleLosses
from tests.integrations import cases
from tests.integrations.cases import Case, Result
from tests.plan.ranks import CLASSES as CASE_CLASSES
from tests.plan.ranks import Row, new_net
from tests.plan.ranks import Rows as CaseRows

SIZE, CLASSES, V, BATCH, EPOCHS = 64, 3, 24, 16, 4
VOLUMES: dict[str, dict[str, Any]] = {
    "constant": {"selector": "infobatch", "ratio": 0.5},
    "pods": {"selector": "small_loss", "ratio": 0.5, "volume": "pods"},
    "rising": {"selector": "random", "ratio": 0.6, "volume": {"name": "linear", "swing": 0.3}},
    "own count": {"selector": "infobatch"},
    "all": {"selector": "random", "ratio": 1.0},
}


class ClassTrainer(DataPlanMixin, Trainer):
    """Two changed lines."""


class TextTrainer(DataPlanMixin, SFTTrainer):
    """Two changed lines."""


# Data, models, arguments


def tokens_of(position: int) -> list[int]:
    """Tokens of a sample, 4 to 12 of them, which say its position."""
    length = 4 + position * 5 % 7 + position % 3
    rest = [4 + (position * step * step) % (V - 4) for step in range(1, length - 1)]
    return [4 + position // 10, 4 + position % 10, *rest]


def rows(*, labels: str = "class") -> list[dict[str, Any]]:
    found = []
    for position in range(SIZE):
        tokens = tokens_of(position)
        sample = {"input_ids": tokens, "attention_mask": [1] * len(tokens), "junk": f"text {position}"}
        if labels == "class":
            sample["labels"] = (position + (position % 7 == 0)) % CLASSES
        elif labels == "answer":
            sample["labels"] = [-100, -100, *tokens[2:]]
        found.append(sample)
    return found


class Rows(TorchDataset[Any]):
    """The same samples as a torch data set."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.samples[position]


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer made by hand: one word a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<eos>", "<unk>", "<mask>", *(f"w{number}" for number in range(4, V))]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def bert(dropout: float = 0.1) -> Any:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=V, num_labels=CLASSES, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        max_position_embeddings=32, **SMALL
    )  # fmt: skip
    return BertForSequenceClassification(config)


def llama() -> Any:
    torch.manual_seed(3)
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=V, num_key_value_heads=2, **SMALL, **ends))


def arguments(folder: Path, **settings: Any) -> dict[str, Any]:
    accumulation, workers = settings.pop("accumulation", 1), settings.pop("workers", 0)
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    return {
        "output_dir": str(folder),
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH // accumulation // ranks,
        "gradient_accumulation_steps": accumulation,
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": workers > 0,
        "learning_rate": 5e-3,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "eval_strategy": "epoch",
        "logging_strategy": "epoch",
        "seed": 1,
        **settings,
    }


def classification(folder: Path, *, plan: Any, data: str = "datasets", **settings: Any) -> ClassTrainer:
    """BERT that tells classes apart, on a `datasets.Dataset` or a torch data set, padded."""
    samples = rows()
    train = Dataset.from_list(samples) if data == "datasets" else Rows(samples)
    dropout = settings.pop("dropout", 0.0)
    return ClassTrainer(
        model=bert(dropout),
        args=TrainingArguments(**arguments(folder, **settings)),
        train_dataset=train,
        eval_dataset=Dataset.from_list(samples[:10]),
        processing_class=tokenizer(),
        plan=plan,
    )


def causal(folder: Path, *, plan: Any, **settings: Any) -> ClassTrainer:
    """Llama in the plain Trainer, by its logits."""
    samples = Dataset.from_list(rows(labels="none"))
    return ClassTrainer(
        model=llama(),
        args=TrainingArguments(**arguments(folder, **settings)),
        train_dataset=samples,
        eval_dataset=samples.select(range(10)),
        data_collator=DataCollatorForLanguageModeling(tokenizer(), mlm=False),
        plan=plan,
    )


def sft(folder: Path, *, plan: Any, peft: bool = False, **settings: Any) -> TextTrainer:
    """Llama in SFTTrainer, by its fused head."""
    samples = Dataset.from_list(rows(labels="answer")).remove_columns(["attention_mask"])
    lora = None
    if peft:
        from peft import LoraConfig

        lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    usual = {"max_length": None, "gradient_checkpointing": False, "bf16": False}
    return TextTrainer(
        model=llama(),
        args=SFTConfig(**{**usual, **arguments(folder, **settings)}),
        train_dataset=samples,
        eval_dataset=samples.select(range(10)),
        processing_class=tokenizer(),
        peft_config=lora,
        plan=plan,
    )


TASKS: dict[str, Callable[..., Any]] = {"classification": classification, "causal": causal, "sft": sft}


# What happened


class Watch(TrainerCallback):
    """Notes what the Trainer does, and stops after a step where it is told to, with a checkpoint."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.epochs: list[float] = []
        self.evaluated: list[int] = []
        self.saved: list[int] = []
        self.ended: list[int] = []
        self.logged: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.epochs.append(state.epoch)
        if state.global_step == self.stop:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.ended.append(state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.evaluated.append(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.saved.append(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        if any(name.startswith("plan/") for name in logs):
            self.logged.append(state.global_step)


class Seen:
    """What each training batch held when the plan took its losses; checked against the model's input."""

    def __init__(self, trainer: Any) -> None:
        self.batches: list[dict[str, Any]] = []
        self._given: Tensor | None = None
        trainer.model.register_forward_pre_hook(self._note, with_kwargs=True)
        self._data = trainer.train_dataset
        self._plan, self._observe = trainer.plan, trainer.plan.observe
        trainer.plan.observe = self._take

    def _note(self, model: Any, given: Any, named: Mapping[str, Any]) -> None:
        if model.training and torch.is_grad_enabled():
            self._given = named["input_ids"]

    def _take(self, batch: Any, losses: Tensor, **said: Any) -> None:
        record = self._plan.epoch_sampler.record
        planned = dict(zip(record.chosen.index.tolist(), record.chosen.weight.tolist(), strict=True))
        positions = batch.index.tolist()
        assert [planned[position] for position in positions] == batch.weight.tolist()
        assert batch.epoch == record.epoch

        # Content: row by row, or one behind the other
        assert self._given is not None
        wanted = [list(self._data[position]["input_ids"]) for position in positions]
        if len(self._given) == 1:
            wanted = [list(itertools.chain(*wanted))]
        for row, tokens in zip(self._given.tolist(), wanted, strict=True):
            assert row[: len(tokens)] == tokens and not any(row[len(tokens) :])
        self.batches.append(
            {
                "epoch": batch.epoch,
                "index": batch.index.tolist(),
                "weight": batch.weight.tolist(),
                "losses": losses.detach().tolist(),
            }
        )
        self._observe(batch, losses, **said)


def train(
    task: str,
    folder: Path,
    *,
    volume: str = "constant",
    accumulation: int = 1,
    workers: int = 0,
    stop: int | None = None,
    resume: bool | str = False,
    **settings: Any,
) -> dict[str, Any]:
    """Train and return what happened.

    Args:
        task: of `TASKS`.
        folder: for checkpoints.
        volume: of `VOLUMES`.
        accumulation: micro-batches a step; the step has 16 samples however many ranks there are.
        workers: of the loader.
        stop: step after which to stop, with a checkpoint; None to train to the end.
        resume: go on from a checkpoint in the folder.
        settings: of the task or its arguments; `plan` over those of the volume.
    """
    plan = {**VOLUMES[volume], "whole_steps": True, **settings.pop("plan", {})}
    trainer = TASKS[task](folder, plan=plan, accumulation=accumulation, workers=workers, **settings)
    watch, seen = Watch(stop), Seen(trainer)
    trainer.add_callback(watch)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module=r"dsenv\..*")
        trainer.train(resume_from_checkpoint=resume)

    plan, args = trainer.plan, trainer.args
    counts = plan.epoch_schedule.counts
    return {
        "batches": seen.batches,
        "parameters": torch.cat([value.detach().flatten() for value in trainer.model.parameters()]),
        "steps": trainer.state.global_step,
        "max_steps": trainer.state.max_steps,
        "planned": None if counts is None else [count // BATCH for count in counts],
        "rate": trainer.optimizer.param_groups[0]["lr"] / args.learning_rate,
        "watch": {name: value for name, value in vars(watch).items() if name != "stop"},
        "signals": plan.signals.state_dict(),
        "trained": plan.cost.trained,
        "tokens": plan.cost.tokens,
        "log": trainer.state.log_history,
        "epoch": plan.epoch,
    }


def resumed(task: str, folder: Path, *, stops: list[int], **settings: Any) -> list[dict[str, Any]]:
    """A run to its end, and for each stop one that was stopped there, saved, and gone on with anew."""
    whole = train(task, folder / "whole", **settings)
    found = [whole]
    for stop in stops:
        place = folder / f"stop{stop}"
        first = train(task, place, stop=stop, **settings)
        rest = train(task, place, resume=True, **settings)
        rest["batches"] = [*first["batches"], *rest["batches"]]
        found.append(rest)
    return found


def as_rank(rank: int, ranks: int) -> None:
    """Say to accelerate what a launcher says."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def on_ranks(folder: Path, calls: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Every case on this rank of a group: name -> (function's name, its arguments)."""
    as_rank(distributed.get_rank(), distributed.get_world_size())
    return {name: globals()[function](folder=folder / name.replace(" ", "_"), **given)
            for name, (function, given) in calls.items()}  # fmt: skip


# The cases that every framework has


class Net(torch.nn.Module):
    """The model of `tests/plan/ranks.py` as the Trainer takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = new_net()

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        logits = self.net(inputs[:, 1:])
        return (logits,) if labels is None else (F.cross_entropy(logits, labels), logits)


class RowTrainer(ClassTrainer):
    """Notes the row of each batch whose loss is taken; its content is that of its positions."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.rows: list[Row] = []

    def sample_losses(self, model: Any, inputs: Any, lengths: Tensor | None = None) -> SampleLosses:
        self._inputs = inputs
        logits = model(**inputs)[1]
        losses = F.cross_entropy(logits, inputs["labels"], reduction="none")
        return SampleLosses(losses, said={"logits": logits})

    def _weighted(self, batch: Any, found: Any, items: Any) -> Tensor:
        self.rows.append(cases.check_row(batch._replace(inputs=self._inputs["inputs"])))
        return super()._weighted(batch, found, items)


def run_case(folder: Path, case: Case) -> Result:
    """Train a case of `cases.py`; at its stop a checkpoint is saved, and a new Trainer goes on from it."""
    stop = cases.stop_step(case)
    first, watch = case_trainer(folder, case, stop)
    first.train()
    trainers, watches = [first], [watch]
    if stop is not None:
        rest, watch = case_trainer(folder, case, None)
        rest.train(resume_from_checkpoint=True)
        trainers, watches = [first, rest], [*watches, watch]

    last = trainers[-1]
    ends = set(itertools.accumulate(map(last.plan.steps_in_epoch, range(EPOCHS))))
    evaluated = [step for watch in watches for step in watch.evaluated if step in ends]  # not where it stops
    return Result(
        rows=[row for trainer in trainers for row in trainer.rows],
        parameters=cases.flat(last.model),
        steps=last.state.global_step,
        last_rate=last.optimizer.param_groups[0]["lr"],
        validations=len(evaluated),
        progress=last.plan.progress,
    )


def case_trainer(folder: Path, case: Case, stop: int | None) -> tuple[RowTrainer, Watch]:
    """The Trainer of a case, and who stops it."""
    args = arguments(folder, accumulation=case.accumulate, workers=case.workers)
    args |= {"optim": "sgd", "learning_rate": cases.RATE, "max_grad_norm": 0.0}
    args |= {"remove_unused_columns": False, "seed": 0}
    samples = [{"inputs": row, "labels": int(label)} for row, label in CaseRows()]
    plan = {**cases.VOLUMES[case.volume], "kind": "classification", "classes": CASE_CLASSES}
    trainer = RowTrainer(
        model=Net(),
        args=TrainingArguments(**args),
        train_dataset=Rows(samples),
        eval_dataset=Rows(samples[:10]),
        plan={**plan, "whole_steps": True},
    )
    watch = Watch(stop)
    trainer.add_callback(watch)
    return trainer, watch
