"""A training loop of one's own with a plan: half of the data, a choice from the command line.

python docs/examples/own_loop.py                          # the rule trim
python docs/examples/own_loop.py --selector infobatch     # any method of docs/methods.md
python docs/examples/own_loop.py --policy curriculum      # the policy that comes with dsenv, or a file

Digits with 40 % wrong labels, a small network, AdamW. Curves and pictures for
TensorBoard go to runs/own_loop.
"""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from dsenv import DataPlan

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--selector", default="trim")
parser.add_argument("--policy", help="in place of a selector")
parser.add_argument("--ratio", type=float, default=0.5)
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--log", default="runs/own_loop", metavar="FOLDER")
args = parser.parse_args()

# Data: 1,300 digits to train on, two fifths of them with a wrong label, and 497 to test on
torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images * (255 / 16), dtype=torch.uint8)[:, None]  # (N, 1, 8, 8)
right = torch.tensor(digits.target)
labels = right.clone()
wrong = torch.rand(len(labels)) < 0.4
labels[wrong] = (labels[wrong] + torch.randint(1, 10, (int(wrong.sum()),))) % 10

# Model, optimizer and plan
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
choice = {"policy": args.policy} if args.policy else {"selector": args.selector}
plan = DataPlan(
    (images[:1300], labels[:1300]),
    epochs=args.epochs,
    batch_size=32,
    ratio=args.ratio,
    transform=lambda batch: batch.float() / 255,
    **choice,
)
scheduler = plan.lr_scheduler(optimizer, lambda progress: 1 - progress)

# The loop
with SummaryWriter(args.log) as writer:
    plan.log_to(writer)
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            logits = model(batch.inputs)
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            loss = plan.loss(batch, losses, logits=logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()

with torch.no_grad():
    accuracy = (model(images[1300:].float() / 255).argmax(1) == right[1300:]).float().mean().item()
suspects = plan.suspects()
found = wrong[:1300][suspects.head(200).position].float().mean().item()
print(f"{accuracy:.1%} on the test split, {plan.cost.trained:,} samples trained on: {choice}")
print(f"{found:.0%} of the 200 labels that look most wrong are wrong")
