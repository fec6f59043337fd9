"""Evaluate a policy beside rules, on fresh seeds, and look at the result in TensorBoard.

python docs/examples/evaluate_policy.py --policy curriculum --seeds 16
tensorboard --logdir runs/evaluate_policy

`--policy` is a file that was exported, or the name of a policy that comes with dsenv.
"""

import argparse
from pathlib import Path

from dsenv.agents.learned import LearnedAgent
from dsenv.catalogue import definition
from dsenv.evaluation import Entry, evaluate, markdown_table, write_report

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--policy", default="curriculum")
parser.add_argument("--env", default="Tiny-Curriculum-v0")
parser.add_argument("--seeds", type=int, default=4)
parser.add_argument("--out", type=Path, default=Path("runs/evaluate_policy"))
args = parser.parse_args()

entries = [Entry("policy", LearnedAgent(args.policy))]
entries += [Entry(name, definition("agents", name).build()) for name in ("random", "trim", "all_data")]
found = evaluate(definition("envs", args.env), entries, "policy", seeds=args.seeds)
print(markdown_table(found))

args.out.mkdir(parents=True, exist_ok=True)
for path in write_report(found, args.out, step=0):
    print(path)
