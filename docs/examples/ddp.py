"""A plan in several processes: torch's DDP, each rank with its share of every step.

torchrun --nproc-per-node 2 docs/examples/ddp.py

Nothing in the loop differs from that of one process. All ranks choose the same samples.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from dsenv import DataPlan

distributed.init_process_group("gloo")  # "nccl" on GPUs
torch.manual_seed(0)  # the same first parameters on all ranks

digits = load_digits()
inputs, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
model = DistributedDataParallel(network)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

# batch_size is that of a whole step: 32 samples on each of two ranks
plan = DataPlan((inputs[:1300], labels[:1300]), epochs=8, batch_size=64, selector="infobatch", ratio=0.5)
for epoch in plan.epochs_left():
    for batch in plan.batches():
        logits = model(batch.inputs)
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        loss = plan.loss(batch, losses, logits=logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

with torch.no_grad():
    accuracy = (network(inputs[1300:]).argmax(1) == labels[1300:]).float().mean().item()
if distributed.get_rank() == 0:
    ranks = distributed.get_world_size()
    print(f"{accuracy:.1%} on {ranks} ranks, {plan.cost.trained:,} samples trained on in all")
distributed.destroy_process_group()
