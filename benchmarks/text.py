"""Causal language models: memory of losses and signals, and the time that half of the data takes.

    OMP_NUM_THREADS=1 python benchmarks/text.py memory [--json PATH]
    OMP_NUM_THREADS=1 python benchmarks/text.py half [--json PATH]

`memory`: hidden states (B, T, D) = (8, 512, 256) and a head for V = 32,000 tokens, float32, all tokens asked
for; forward and backward of the mean loss. Each row is a process of its own, which does the same with
eight tokens first; "added" is by how much its largest resident memory (ru_maxrss) then grows, with the
gradients of hidden states and head counted and those tensors themselves not. `F.cross_entropy` gives the
loss of whole logits and no signals, the other rows give both.

`half`: a Llama of `transformers` (4 layers, 128 wide, V = 2,000, random weights) on 128 generated texts of 20
to 200 tokens, AdamW, batches of 8, two epochs; with all data and with half of the samples in the same loop,
and all data in the same loop without a plan; in turn in every round. Seconds are the process's on the CPU
with one thread: those of a machine without other jobs. "of all data" is the ratio in each round. Quartiles
in brackets.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import common
import torch
from common import Spread
from torch import Tensor, nn
from torch.nn import functional as F

from dsenv import DataPlan
from dsenv.text import Collate, causal_lm_losses, from_logits, token_losses

SHAPE = (8, 512, 256, 32_000)  # B, T, D, V
QUICK = (2, 16, 8, 100)


# Memory


def whole(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The mean loss by F.cross_entropy on all logits."""
    asked = F.pad(labels[:, 1:], (0, 1), value=-100).flatten()  # without a copy of the logits
    return F.cross_entropy(F.linear(hidden, weight).flatten(0, 1), asked)


def chunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return token_losses(hidden, weight, labels).loss.mean()


def by_logits(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return from_logits(F.linear(hidden, weight), labels).loss.mean()


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "F.cross_entropy on whole logits, loss alone": whole,
    "from_logits: loss and signals": by_logits,
    "token_losses: loss and signals": chunked,
}


def resident() -> float:
    """Largest resident memory so far, MiB."""
    unit = 1024 if sys.platform != "darwin" else 1024**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(name: str, shape: Sequence[int]) -> dict[str, float]:
    """MiB that one way adds in this process, and its seconds on the CPU."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, length, size, vocabulary = shape
    hidden = torch.randn(rows, length, size, requires_grad=True)
    weight = (torch.randn(vocabulary, size) * size**-0.5).requires_grad_()
    labels = torch.randint(vocabulary, (rows, length))
    WAYS[name](hidden[:1, :8], weight, labels[:1, :8]).backward()
    hidden.grad = weight.grad = None

    before = resident()
    loss: list[Tensor] = []
    seconds = common.seconds(
        lambda: (loss.append(WAYS[name](hidden, weight, labels)), loss[0].backward()),
        torch.device("cpu"),
        common.time.process_time,
    )
    return {"before": before, "added": resident() - before, "seconds": seconds, "loss": loss[0].item()}


def memory(args: Any) -> list[dict[str, Any]]:
    shape = QUICK if args.quick else SHAPE
    found: dict[str, dict[str, float]] = {}
    for name in WAYS:
        command = [sys.executable, __file__, "memory", "--one", name, "--shape", *map(str, shape)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[name] = json.loads(done.stdout)

    most = found[next(iter(WAYS))]["added"]
    rows = []
    for name, one in found.items():
        share = one["added"] / max(most, 1e-9)
        cells = [
            name,
            f"{one['added']:,.0f} MiB",
            f"{share:.2f}",
            f"{one['seconds']:.1f} s",
            f"{one['loss']:.4f}",
        ]
        rows.append({"way": name, "shape": list(shape), **one, "share": share, "cells": cells})
    return rows


# Half of the data


def texts(number: int, vocabulary: int) -> list[dict[str, Tensor]]:
    """Texts of 20 to 200 tokens in which each token follows from the one before, or is random."""
    draw = torch.Generator().manual_seed(0)
    follows = torch.randperm(vocabulary, generator=draw)
    found = []
    for _ in range(number):
        tokens = torch.randint(
            vocabulary, (int(torch.randint(20, 201, (1,), generator=draw)),), generator=draw
        )
        for place in range(1, len(tokens)):
            if torch.rand(1, generator=draw) < 0.7:
                tokens[place] = follows[tokens[place - 1]]
        found.append({"input_ids": tokens, "labels": tokens})
    return found


def llama(vocabulary: int, layers: int, size: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=4 * size,
        max_position_embeddings=256,
    )
    return LlamaForCausalLM(config)


def train(
    data: list[dict[str, Tensor]], new_model: Callable[[], nn.Module], epochs: int, **choice: Any
) -> Any:
    """Train under a plan; the plan."""
    model = new_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    lengths = torch.tensor([len(sample["input_ids"]) for sample in data])
    plan = DataPlan(data, epochs=epochs, batch_size=8, lengths=lengths, seed=0, **choice)
    loader = plan.loader(collate_fn=Collate(0))
    for _ in plan.epochs_left():
        for batch in loader:
            found = causal_lm_losses(model, batch.inputs)
            loss = plan.loss(batch, found.loss, signals=found.signals, tokens=found.tokens)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return plan


def train_plainly(data: list[dict[str, Tensor]], new_model: Callable[[], nn.Module], epochs: int) -> None:
    """The same loop without a plan, batches of similar length too."""
    model = new_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    draw = torch.Generator().manual_seed(0)
    order = sorted(range(len(data)), key=lambda position: len(data[position]["input_ids"]))
    batches = [order[start : start + 8] for start in range(0, len(order), 8)]
    for _ in range(epochs):
        for number in torch.randperm(len(batches), generator=draw).tolist():
            batch = Collate(0)([data[position] for position in batches[number]])
            found = causal_lm_losses(model, batch)
            loss = found.sums.sum() / found.tokens.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def half(args: Any) -> list[dict[str, Any]]:
    number, epochs, shape = (16, 1, (50, 1, 16)) if args.quick else (128, 2, (2000, 4, 128))
    data, kind = texts(number, shape[0]), {"name": "language", "vocabulary": shape[0]}

    def new_model() -> Any:
        return llama(*shape)

    choices: dict[str, dict[str, Any]] = {
        "all data": {},
        "random half": {"selector": "random", "ratio": 0.5},
        "InfoBatch, half": {"selector": "infobatch", "ratio": 0.5},
        "random, half of the tokens": {"selector": "random", "ratio": 0.5, "ratio_of": "tokens"},
    }
    plans: dict[str, Any] = {}

    def run(name: str) -> Callable[[], None]:
        return lambda: plans.update({name: train(data, new_model, epochs, kind=kind, **choices[name])})

    calls: dict[str, Callable[[], object]] = {name: run(name) for name in choices}
    calls["all data, no plan"] = lambda: train_plainly(data, new_model, epochs)
    times = common.interleaved(calls, 1 if args.quick else args.repeats, torch.device("cpu"), cpu_time=True)

    rows = []
    for name, seconds in times.items():
        ratio = Spread.of([own / all_ for own, all_ in zip(seconds, times["all data"], strict=True)])
        cost = plans[name].cost if name in plans else None
        counts = (
            {"samples": cost.trained, "tokens": cost.tokens} if cost else {"samples": None, "tokens": None}
        )
        texts_ = [f"{value:,}" if value is not None else "" for value in counts.values()]
        cells = [name, *texts_, Spread.of(seconds).text(".2f", " s"), ratio.text()]
        rows.append({"run": name, **counts, "seconds": seconds, "of_all_data": list(ratio), "cells": cells})
    return rows


def main() -> None:
    parser = common.parser(__doc__, 5)
    parser.add_argument("what", choices=["memory", "half"])
    parser.add_argument("--one", help="measure this way alone, in this process")
    parser.add_argument("--shape", type=int, nargs=4, help="B, T, D and V of --one")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.shape)))
        return

    device = common.choose_device("cpu")
    heads = {
        "memory": ["", "added", "of F.cross_entropy", "on the CPU", "loss"],
        "half": ["", "samples", "tokens", "seconds", "of all data"],
    }
    rows = {"memory": memory, "half": half}[args.what](args)
    packages = ["transformers"] if args.what == "half" else []
    common.report(args, common.facts(device, packages), heads[args.what], rows)


if __name__ == "__main__":
    main()
