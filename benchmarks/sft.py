"""Supervised fine-tuning by TRL: does half of the data take half of the time?

    OMP_NUM_THREADS=1 python benchmarks/sft.py [--repeats 3] [--json benchmarks/results/sft.json]

A Llama from its configuration (4 layers, 128 wide, V = 2,000, random weights) on 96 generated texts of 20 to
200 tokens, AdamW, steps of 8 texts, two epochs, padded and padding-free, in one process and on two gloo ranks
of one machine: `SFTTrainer` as it is, with a plan of all data, and with plans of half of the texts. All runs
in turn in every round, in a different order each; "of plain" is the ratio to `SFTTrainer` in the same round.
Seconds are those of `train()` on the CPU, one thread a process, of the slower rank: as of a machine without
other jobs. Wall-clock seconds stand in the JSON beside them. Tokens are those of the texts trained on,
without padding, as TRL counts them. The bar: half of the data in at most 0.55 of the time.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import torch
from common import Spread
from torch import distributed, multiprocessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dsenv.integrations.huggingface import DataPlanMixin

BAR = 0.55
RUNS: dict[str, dict[str, Any] | None] = {
    "SFTTrainer": None,
    "plan, all data": {"selector": "random", "ratio": 1.0},
    "random half": {"selector": "random", "ratio": 0.5},
    "InfoBatch, half": {"selector": "infobatch", "ratio": 0.5},
}
FORMS = {"padded": False, "padding-free": True}
SHAPE = {"texts": 96, "vocabulary": 2000, "layers": 4, "size": 128, "epochs": 2, "batch": 8}
QUICK = {"texts": 16, "vocabulary": 50, "layers": 1, "size": 16, "epochs": 2, "batch": 4}


def texts(number: int, vocabulary: int) -> list[dict[str, list[int]]]:
    """Texts of 20 to 200 tokens in which each token follows from the one before, or is random."""
    draw = torch.Generator().manual_seed(0)
    follows = torch.randperm(vocabulary - 4, generator=draw) + 4
    found = []
    for _ in range(number):
        length = int(torch.randint(20, 201, (1,), generator=draw))
        tokens = torch.randint(4, vocabulary, (length,), generator=draw)
        for place in range(1, length):
            if torch.rand(1, generator=draw) < 0.7:
                tokens[place] = follows[tokens[place - 1] - 4]
        found.append({"input_ids": tokens.tolist()})
    return found


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One word a token; the trainer asks for one, and the texts are tokens already."""
    from tokenizers import Tokenizer, models

    words = ["<pad>", "<eos>", "<unk>", *(f"w{number}" for number in range(3, vocabulary))]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, "<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def new_trainer(shape: dict[str, int], plan: dict[str, Any] | None, folder: str, *, flat: bool) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class PlanTrainer(DataPlanMixin, SFTTrainer):
        pass

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["size"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=4 * shape["size"],
        max_position_embeddings=2048,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    args = SFTConfig(
        folder,
        num_train_epochs=shape["epochs"],
        per_device_train_batch_size=shape["batch"] // ranks,
        padding_free=flat,
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        learning_rate=1e-3,
    )
    own = {} if plan is None else {"plan": {**plan, "whole_steps": True}}
    data = Dataset.from_list(texts(shape["texts"], shape["vocabulary"]))
    return (SFTTrainer if plan is None else PlanTrainer)(
        model=LlamaForCausalLM(config),
        args=args,
        train_dataset=data,
        processing_class=tokenizer(shape["vocabulary"]),
        **own,
    )


def one(shape: dict[str, int], name: str, form: str) -> dict[str, float]:
    """One training run: seconds on the CPU and of the clock, and what was trained on."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = new_trainer(shape, RUNS[name], folder, flat=FORMS[form])
        if distributed.is_initialized():
            distributed.barrier()
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        plan = getattr(trainer, "plan", None)
        samples = shape["texts"] * shape["epochs"] if plan is None else plan.cost.trained
        return {
            "cpu": cpu,
            "wall": wall,
            "steps": trainer.state.global_step,
            "samples": samples,
            "tokens": trainer._total_train_tokens,
        }


def rounds(shape: dict[str, int], repeats: int) -> dict[str, list[dict[str, float]]]:
    """Every run in every round, after one small run to warm up."""
    torch.set_num_threads(1)
    one(QUICK, "random half", "padded")
    names = [(name, form) for form in FORMS for name in RUNS]
    found: dict[str, list[dict[str, float]]] = {f"{form}: {name}": [] for name, form in names}
    for number in range(repeats):
        shift = number % len(names)
        for name, form in names[shift:] + names[:shift]:
            found[f"{form}: {name}"].append(one(shape, name, form))
    return found


def work(rank: int, ranks: int, port: int, shape: dict[str, int], repeats: int, folder: str) -> None:
    """One rank of several, as a launcher starts it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo")
    Path(folder, f"{rank}.json").write_text(json.dumps(rounds(shape, repeats)))
    distributed.destroy_process_group()


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def on_ranks(ranks: int, shape: dict[str, int], repeats: int) -> dict[str, list[dict[str, float]]]:
    """The rounds on several ranks: of each run the time of the slower one."""
    with tempfile.TemporaryDirectory() as folder:
        given = (ranks, free_port(), shape, repeats, folder)
        multiprocessing.start_processes(work, given, nprocs=ranks, start_method="spawn")
        each = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
    return {
        name: [
            {**runs[0], "cpu": max(run["cpu"] for run in runs), "wall": max(run["wall"] for run in runs)}
            for runs in zip(*(found[name] for found in each), strict=True)
        ]
        for name in each[0]
    }


def rows_of(found: dict[str, list[dict[str, float]]], ranks: int) -> list[dict[str, Any]]:
    rows = []
    for name, runs in found.items():
        form, _, run = name.partition(": ")
        plain = found[f"{form}: SFTTrainer"]
        ratio = Spread.of([own["cpu"] / other["cpu"] for own, other in zip(runs, plain, strict=True)])
        walls = Spread.of([own["wall"] / other["wall"] for own, other in zip(runs, plain, strict=True)])
        is_half = "half" in run
        seconds = [own["cpu"] for own in runs]
        last = runs[-1]
        cells = [
            str(ranks),
            form,
            run,
            f"{last['steps']:,}",
            f"{last['samples']:,}",
            f"{last['tokens']:,}",
            Spread.of(seconds).text(".2f", " s"),
            ratio.text(),
            ("met" if ratio.median <= BAR else "missed") if is_half else "",
        ]
        rows.append(
            {
                "ranks": ranks,
                "form": form,
                "run": run,
                "steps": last["steps"],
                "samples": last["samples"],
                "tokens": last["tokens"],
                "seconds": seconds,
                "wall_seconds": [own["wall"] for own in runs],
                "of_plain": list(ratio),
                "of_plain_wall": list(walls),
                "bar": BAR if is_half else None,
                "cells": cells,
            }
        )
    return rows


def main() -> None:
    parser = common.parser(__doc__, 3)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2], help="how many (default 1 and 2)")
    args = parser.parse_args()
    shape, repeats = (QUICK, 1) if args.quick else (SHAPE, args.repeats)
    device = common.choose_device("cpu")

    rows = []
    for ranks in args.ranks:
        found = rounds(shape, repeats) if ranks == 1 else on_ranks(ranks, shape, repeats)
        rows += rows_of(found, ranks)
    heads = ["ranks", "", "", "steps", "texts", "tokens", "seconds", "of plain", f"bar: {BAR}"]
    common.report(args, common.facts(device, ["transformers", "trl", "accelerate"]), heads, rows)


if __name__ == "__main__":
    main()
