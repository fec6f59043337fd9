"""Train an agent by Stable-Baselines3 alone, and export its policy as one small file.

python docs/examples/train_agent_and_export.py --steps 24000 --env dsenv/Digits-Curriculum-v0

`python train_agent.py` does this too, with checkpoints, the choice of the best policy and a table of results.
"""

import argparse

from stable_baselines3 import PPO

import dsenv
from dsenv.catalogue import load_vector

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--env", default="dsenv/Tiny-Curriculum-v0")
parser.add_argument("--steps", type=int, default=3072)
parser.add_argument("--replicas", type=int, default=32, help="training runs side by side")
parser.add_argument("--out", default="mine.safetensors")
args = parser.parse_args()

# validation_shown = 0: the policy works in a loop without a validation split
vector = load_vector(args.env, num_envs=args.replicas, autoreset_mode="SameStep", validation_shown=0.0)
env = dsenv.StackedVecEnv(vector)
model = PPO(
    "MlpPolicy",
    env,
    n_steps=12,
    batch_size=12 * args.replicas,
    gamma=1.0,  # the rewards of an episode add up to the final accuracy
    learning_rate=1.5e-3,
    policy_kwargs={"log_std_init": -0.7},
    device="cpu",
    tensorboard_log="runs",
    seed=0,
)
model.learn(args.steps, callback=dsenv.EnvScalars())

path = dsenv.export(model, env, environment=args.env.removeprefix("dsenv/")).save(args.out)
print(f"{path}: {dsenv.Policy.load(path)}")
