"""The papers' own settings: CIFAR, ImageNet, fine-grained sets, segmentation and instruction tuning.

    python benchmarks/reproduce_papers.py cifar100 --data FOLDER --arm pods_infobatch --out runs/papers.jsonl
    torchrun --nproc-per-node 8 benchmarks/reproduce_papers.py imagenet --data FOLDER --arm random ...
    python benchmarks/reproduce_papers.py instruct --model FOLDER --data train.jsonl --test test.jsonl ...
    python benchmarks/reproduce_papers.py --list

Nothing is downloaded. `--smoke` writes small generated data in the form that the setting reads, and trains
on them for two epochs with a small model: it shows that the command runs, and its figures mean nothing.
`reproduce_paper_data.py` says which files are expected.

One JSON line a run with command, commit, versions and hardware; a run that is in the file is not run again.
`--checkpoint FILE` keeps model, optimizer and plan after each epoch, and a stopped run goes on from there.
bf16 and channels_last on a GPU; under torchrun each rank has one GPU, and the batch is that of all ranks.
Recipes are those that the papers' code or their baselines' show: 200 epochs on CIFAR, SGD with Nesterov
momentum, weight decay 5e-4, one-cycle rate, label smoothing 0.1, flip and crop with reflected padding. Those
of the others are in nothing that could be read; there it is the common recipe.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import facts
from reproduce_paper_data import DATA, Loaded, smoke_files
from reproduce_rows import AGENT, RELEASED, pods
from reproduce_runs import filled
from torch import Tensor, distributed, nn

from dsenv import DataPlan
from dsenv.plan import FeatureForward
from dsenv.tasks.task import Recipe

ARMS: dict[str, dict[str, Any]] = {
    "all": {},
    **{name: {"selector": name} for name in ("random", "infobatch", "ucb", "epsilon_greedy")},
    **{
        f"pods_{name}": {"selector": name, "volume": pods()}
        for name in ("random", "infobatch", "ucb", "epsilon_greedy")
    },
    **{name: {"selector": name, "uniform_epochs": 1} for name in ("moderate", "glister")},
    **{
        f"pods_{name}": {"selector": name, "uniform_epochs": 1, "volume": pods()}
        for name in ("moderate", "glister")
    },
    "infobatch_published": {"selector": "infobatch", "ratio": None},
    "data_agent": {"selector": AGENT},
    "data_agent_released": {"selector": RELEASED},
    **{name: {"augment": name} for name in ("trivial", "rand_augment", "ent_augment")},
    "sada": {"augment": {"name": "sada", "estimator": "kl"}},
    "sada_loss": {"augment": {"name": "sada", "estimator": "loss"}},
}
"""Arguments of the plan; all but those of augmentation take `--ratio` of the data."""


@dataclass(frozen=True)
class Setting:
    """One published setting."""

    data: str
    """How its data are read, of `reproduce_paper_data.DATA`."""
    model: str
    """Of `models`, or "path" for `--model`."""
    recipe: Recipe
    epochs: int
    claim: str
    """What was published."""
    kind: str | None = None
    workers: int = 0


SGD = Recipe(lr=0.1, schedule="one_cycle", weight_decay=5e-4, label_smoothing=0.1)
SETTINGS = {
    "cifar10": Setting(
        "cifar10", "resnet18", SGD, 200, "Data Agent 50 %: 95.11 at the end (one seed, 56 % of visits)"
    ),
    "cifar100": Setting(
        "cifar100",
        "resnet18",
        SGD,
        200,
        "PODS 50 %: InfoBatch 78.1 -> 78.8, UCB 75.3 -> 78.9, Moderate 73.4 -> 78.4",
    ),
    "imagenet": Setting(
        "folder",
        "resnet50",
        Recipe(lr=0.4, schedule="cosine", weight_decay=1e-4, batch_size=1024, label_smoothing=0.1),
        90,
        "Data Agent 60 %: 76.8, InfoBatch 76.5, all data 76.4",
        workers=8,
    ),
    "fine_grained": Setting(
        "folder",
        "resnet50",
        Recipe(lr=0.01, schedule="cosine", weight_decay=5e-4, batch_size=64, label_smoothing=0.1),
        100,
        "SADA: +7.3 points; PODS: Aircraft 76.7 at 60 %, 76.6 on all data",
        workers=8,
    ),
    "segmentation": Setting(
        "masks",
        "deeplab",
        Recipe(lr=0.01, schedule="cosine", weight_decay=1e-4, batch_size=16),
        80,
        "Data Agent on ADE20K, UperNet: 46.4 at 70 %, 45.4 on all data (mean IoU)",
        kind="segmentation",
        workers=8,
    ),
    "instruct": Setting(
        "text",
        "path",
        Recipe(optimizer="adamw", lr=1e-5, schedule="cosine", momentum=0.9, batch_size=32),
        3,
        "PODS 50 %: MMLU 74.0 and 74.0, half of the hours; Data Agent 50 %: MMLU 36.9, all data 34.9",
        kind="language",
    ),
}


def models(name: str, data: Loaded, args: argparse.Namespace) -> nn.Module:
    """The network of a setting."""
    if name == "path":
        return data.model
    if args.smoke:
        from dsenv.tasks.models import small_cnn, small_fcn

        return (small_fcn if name == "deeplab" else small_cnn)(data.shape, data.classes, width=8)
    if data.shape[-1] <= 64:
        from dsenv.tasks.models import resnet18, resnet50

        return {"resnet18": resnet18, "resnet50": resnet50}[name](data.shape, data.classes)

    import torchvision.models as zoo

    if name == "deeplab":
        return zoo.segmentation.deeplabv3_resnet50(
            weights=None, weights_backbone=None, num_classes=data.classes
        )
    model = getattr(zoo, name)()
    if args.model:  # weights that are there, for fine-tuning
        model.load_state_dict(torch.load(args.model, weights_only=True))
    model.fc = nn.Linear(model.fc.in_features, data.classes)
    return model


class Training:
    """A run: the plan, the model and the loop, in one or several ranks.

    Args:
        setting: which.
        args: the command line.
        device: of this rank.
    """

    def __init__(self, setting: Setting, args: argparse.Namespace, device: torch.device) -> None:
        self.setting, self.args, self.device = setting, args, device
        self.epochs = 2 if args.smoke else args.epochs or setting.epochs
        self.data = DATA[setting.data](args, device)
        self.recipe = setting.recipe
        self.batch = min(args.batch or self.recipe.batch_size, 16 if args.smoke else 1 << 20)

        torch.manual_seed(args.seed)
        made = models(setting.model, self.data, args).to(device)
        self.own = made.to(memory_format=torch.channels_last) if setting.kind is None else made
        wrapped = distributed.is_initialized() and distributed.get_world_size() > 1
        self.model = nn.parallel.DistributedDataParallel(self.own) if wrapped else self.own
        self.forward = self._forward()
        self.plan = self._plan()
        self.optimizer = self._optimizer()
        self.rate = self.plan.lr_scheduler(
            self.optimizer, lambda p: self.recipe.learning_rate(p) / self.recipe.lr
        )

    def _plan(self) -> DataPlan:
        arm = filled(ARMS[self.args.arm], self.epochs)
        whole = self.args.arm == "all" or "augment" in arm
        kind = self.setting.kind
        named = {"language": {"name": "language", "vocabulary": self.data.classes}}
        more = {"kind": named.get(kind, kind)} if kind else {}
        if kind != "language":
            more["classes"] = self.data.classes
        return DataPlan(
            self.data.train,
            epochs=self.epochs,
            batch_size=self.batch,
            transform=self.data.transform,
            device=self.device,
            seed=self.args.seed,
            **{"ratio": None if whole else self.args.ratio, **arm},
            **more,
        )

    def _forward(self) -> Any:
        """Gives logits and features where the model is one that classifies images."""
        if self.setting.kind is not None:
            return self.model
        return FeatureForward(self.model, [m for m in self.own.modules() if isinstance(m, nn.Linear)][-1])

    def _optimizer(self) -> torch.optim.Optimizer:
        recipe, parameters = self.recipe, [p for p in self.own.parameters() if p.requires_grad]
        if recipe.optimizer == "adamw":
            return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)
        return torch.optim.SGD(
            parameters, recipe.lr, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
        )

    def precision(self) -> Any:
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def train(self) -> float:
        """Train, or go on; seconds of this process."""
        start = time.perf_counter()
        workers = 0 if self.args.smoke else self.setting.workers
        loader = (
            self.plan.loader(
                num_workers=workers, persistent_workers=workers > 0, collate_fn=self.data.collate
            )
            if self.data.loads
            else None
        )
        self.load()
        for epoch in self.plan.epochs_left():
            if epoch == 1 and self.plan.selector.needs_pass:
                with self.precision():
                    self.plan.score(self.forward)
            for batch in self.plan.batches() if loader is None else loader:
                self.step(batch)
            self.save()
        return time.perf_counter() - start

    def step(self, batch: Any) -> None:
        with self.precision():
            loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.rate.step()

    def loss(self, batch: Any) -> Tensor:
        """The weighted loss of a batch; the plan takes in what the model says."""
        plan = self.plan
        if self.setting.kind == "language":
            from dsenv.text import causal_lm_losses

            found = causal_lm_losses(self.model, batch.inputs)
            return plan.loss(batch, found.loss, signals=found.signals, tokens=found.tokens)
        if self.setting.kind == "segmentation":
            outputs = self.model(batch.inputs)
            return plan.loss(batch, plan.kind.sample_loss(outputs, batch.labels), outputs=outputs)
        logits, features = self.forward(batch.inputs)
        losses = nn.functional.cross_entropy(
            logits.float(), batch.labels, reduction="none", label_smoothing=self.recipe.label_smoothing
        )
        return plan.loss(batch, losses, logits=logits, features=features, forward=self.forward)

    def save(self) -> None:
        """Keep everything after an epoch; the plan's state is gathered, so that every rank calls this."""
        if not self.args.checkpoint:
            return
        state = {"plan": self.plan.state_dict()}
        state |= {name: getattr(self, name).state_dict() for name in ("own", "optimizer", "rate")}
        if rank() == 0:
            part = self.args.checkpoint.with_suffix(".part")
            torch.save(state, part)
            part.replace(self.args.checkpoint)

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.args.checkpoint and self.args.checkpoint.is_file():
            state = torch.load(self.args.checkpoint, map_location=self.device, weights_only=True)
            for name in ("plan", "own", "optimizer", "rate"):
                getattr(self, name).load_state_dict(state[name])


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def begin_ranks() -> torch.device:
    """The device of this rank; begins the group under torchrun."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if on_gpu else "gloo")
    if on_gpu:
        torch.cuda.set_device(local)
    return torch.device("cuda", local) if on_gpu else torch.device("cpu")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("setting", nargs="?", choices=list(SETTINGS))
    made.add_argument("--list", action="store_true", help="print settings, their files and published figures")
    made.add_argument("--data", type=Path, help="folder or file of the training data")
    made.add_argument("--test", type=Path, help="JSON lines of multiple choice, for instruct")
    made.add_argument("--model", type=Path, help="folder of a language model; weights of a network")
    made.add_argument(
        "--lora", type=int, default=0, help="rank of LoRA adapters by peft; 0 trains all weights"
    )
    made.add_argument("--arm", choices=list(ARMS), default="all")
    made.add_argument("--ratio", type=float, default=0.5)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--epochs", type=int, help="in the place of the setting's")
    made.add_argument("--batch", type=int, help="samples a step of all ranks, in the place of the setting's")
    made.add_argument("--size", type=int, help="side of the images; 224 for folders, 512 for masks")
    made.add_argument("--out", type=Path, default=Path("runs/papers.jsonl"))
    made.add_argument("--checkpoint", type=Path)
    made.add_argument("--smoke", action="store_true", help="generated data, a small model, two epochs")
    args = made.parse_args(arguments)
    if not args.list and args.setting is None:
        made.error("a setting is needed: one of " + ", ".join(SETTINGS))
    if not args.list and args.data is None and not args.smoke:
        made.error("--data is needed, or --smoke for generated data")
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One run, as a line of JSON."""
    setting, device = SETTINGS[args.setting], begin_ranks()
    names = ("setting", "arm", "ratio", "seed", "epochs", "batch", "size", "lora", "smoke")
    told = {name: getattr(args, name) for name in names}
    lines = args.out.read_text().splitlines() if args.out.is_file() else []
    for line in map(json.loads, lines):
        if {name: line.get(name) for name in names} == told:
            return line

    with tempfile.TemporaryDirectory() as folder:
        if args.smoke:
            smoke_files(setting.data, Path(folder), args)
        training = Training(setting, args, device)
        seconds = training.train()
        score = training.data.score(training)
    from reproduce import commit

    plan = training.plan
    counts = {
        "samples": plan.cost.trained,
        "compute": plan.cost.compute,
        "train_size": len(training.data.train_labels),
    }
    about = {"command": shlex.join(["python", *sys.argv]), "commit": commit(), **facts(device)}
    found = {
        **told,
        "metric": score,
        "seconds": round(seconds, 2),
        **counts,
        "published": setting.claim,
        **about,
    }
    if rank() == 0:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(found) + "\n")
    return found


def main(arguments: list[str] | None = None) -> None:
    """List the settings, or run one."""
    args = parse(arguments)
    if args.list:
        for name, setting in SETTINGS.items():
            print(f"{name}: {setting.epochs} epochs, {setting.model}; {DATA[setting.data].__doc__}")
            print(f"    published: {setting.claim}")
        return
    found = run(args)
    if rank() == 0:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
