"""Microseconds of the operations in dsenv/kernels.py against their obvious form in torch.

    OMP_NUM_THREADS=1 python benchmarks/kernels.py [--device cuda]

Both forms are timed in turn; the median of the rounds is reported.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional

from dsenv import kernels


def cases(device):
    """Name, fast form, obvious form."""
    logits = torch.randn(3200, 10, device=device)
    labels = torch.randint(0, 10, (3200,), device=device)
    rows = torch.rand(64, 1000, device=device)
    return [
        ("log_softmax, 3,200 x 10", lambda: kernels.log_softmax(logits), lambda: logits.log_softmax(-1)),
        (
            "cross_entropy, 3,200 x 10",
            lambda: kernels.cross_entropy(logits, labels),
            lambda: functional.cross_entropy(logits, labels, reduction="none"),
        ),
        ("sort, 64 x 1,000", lambda: kernels.sort(rows), lambda: rows.sort(-1).values),
        ("argsort, 64 x 1,000", lambda: kernels.argsort(rows), lambda: rows.argsort(-1)),
    ]


def microseconds(call, device, repeats=30):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats * 1e6


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| operation | dsenv, us | torch, us | ratio |\n|---|---|---|---|")
    for name, fast, slow in cases(args.device):
        pairs = [
            (microseconds(fast, args.device), microseconds(slow, args.device)) for _ in range(args.rounds)
        ]
        quick, plain = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(f"| {name} | {quick:.0f} | {plain:.0f} | {plain / quick:.1f}x |")


if __name__ == "__main__":
    main()
