"""Train an agent in an environment, resume it, evaluate it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsenv.agents.sb3 import SB3Agent
from dsenv.catalogue import Definition, definition, names
from dsenv.evaluation.compare import Entry, Evaluation, evaluate
from dsenv.evaluation.report import write_report
from dsenv.workbench.policies import agent_definition, write_policy
from dsenv.workbench.run import Run

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback

    from dsenv.agents.callbacks import SeededEval
    from dsenv.agents.vec_env import StackedVecEnv

EVALUATIONS = 15  # on the validation reward during training, to find the best policy
EVAL_SEED = 500_000_000


def make_vec_env(env: Definition, num_envs: int, device: str) -> "StackedVecEnv":
    """K environments stacked into one, for SB3."""
    from dsenv.agents.vec_env import StackedVecEnv

    return StackedVecEnv(env.build_vector(num_envs, autoreset_mode="SameStep", device=device))


def train(run: Run, agent: SB3Agent, device: str, *, resume: bool = False) -> bool:
    """Train an agent until its steps are done; its policies and logs go to the run's folder.

    The best policy is exported to `policy.safetensors` as well, where its kind travels.

    Args:
        run: where.
        agent: what.
        device: where the models train; the policy itself stays where its hyperparameters say.
        resume: go on from `last_model.zip`.

    Returns:
        Whether all steps were done; False after Ctrl-C.
    """
    from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

    from dsenv.agents.callbacks import SaveLast

    # The model, as new or where it was left
    settings = run.env.with_overrides(agent.env)
    env = make_vec_env(settings, agent.num_envs, device)
    model = agent.load(run.folder / "last_model.zip", env) if resume else agent.build(env, run.seed)
    done = model.num_timesteps
    if resume:
        env.seed(int(np.random.SeedSequence([run.seed, done]).generate_state(1)[0]))
        _load_replay_buffer(model, run.folder / "replay_buffer.pkl")

    # Training, until the steps are done or somebody presses Ctrl-C
    model.set_logger(Logger(str(run.folder), [TensorBoardOutputFormat(str(run.folder))]))
    every = max(1, math.ceil(agent.steps / agent.num_envs / EVALUATIONS))
    save = SaveLast(run.folder, every)
    best = _best_policy_callback(run, agent, settings, every, device)
    is_finished = _learn(model, agent.steps, [save, best], resume=resume)

    save.save()
    write_policy(run, agent.load(best_model(run.folder)), env)
    return is_finished


def _best_policy_callback(
    run: Run, agent: SB3Agent, settings: Definition, every: int, device: str
) -> "SeededEval":
    """Evaluates the policy every `every` vector steps and saves the best one."""
    from dsenv.agents.callbacks import SeededEval, past_evaluations

    # A resumed run keeps its number of episodes: scores compare only on the same episodes
    past = past_evaluations(run.folder / "evaluations.npz").get("results")
    episodes = len(past[0]) if past else agent.num_envs
    return SeededEval(
        make_vec_env(settings, episodes, device),
        EVAL_SEED + run.seed,
        n_eval_episodes=episodes,
        eval_freq=every,
        best_model_save_path=str(run.folder),
        log_path=str(run.folder),
        deterministic=True,
        verbose=0,
    )


def _learn(model: "BaseAlgorithm", steps: int, callbacks: Sequence["BaseCallback"], *, resume: bool) -> bool:
    """Train until the model has done that many steps, with scalars and a bar; False after Ctrl-C."""
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    from dsenv.agents.callbacks import EnvScalars, ProgressBar

    scalars = EnvScalars()
    try:
        model.learn(
            max(0, steps - model.num_timesteps),
            callback=[scalars, *callbacks, ProgressBar(steps, scalars)],
            reset_num_timesteps=not resume,
            log_interval=20 if isinstance(model, OffPolicyAlgorithm) else 1,
        )
    except KeyboardInterrupt:
        return False
    return True


def best_model(folder: Path) -> Path:
    """A run's best model by validation reward; its last one where no best was found yet."""
    best = folder / "best_model.zip"
    return best if best.is_file() else folder / "last_model.zip"


def _load_replay_buffer(model: "BaseAlgorithm", path: Path) -> None:
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    if isinstance(model, OffPolicyAlgorithm) and path.is_file():
        model.load_replay_buffer(path)


def rule_names(control: Any, action_space: Any) -> list[str]:
    """The rule-based agents of the catalogue that answer this environment's own question.

    Published methods replace the question (their definitions set `control`); ask for them by name.
    """
    fitting = []
    for name in names("agents"):
        agent = definition("agents", name).build()
        if agent.learns or "control" in agent.env:
            continue
        try:
            agent.bind(control, action_space)
        except ValueError:
            continue
        fitting.append(name)

    return fitting


def distinct_names(own: Definition, others: Sequence[Definition]) -> dict[str, Definition]:
    """The others, each by a name of its own; one that is there already is left out.

    Two policy files may have the same stem, or that of a rule: the later one gets a number.

    Args:
        own: keeps its name.
        others: in order.
    """
    found = {own.name: own}
    for other in others:
        if any((rule.name, rule.as_dict()) == (other.name, other.as_dict()) for rule in found.values()):
            continue

        name, number = other.name, 2
        while name in found:
            name, number = f"{other.name}-{number}", number + 1
        found[name] = other

    return {name: rule for name, rule in found.items() if rule is not own}


def evaluate_run(
    run: Run, env: Definition, seeds: int, device: str, compare: Sequence[str] = (), prefix: str = ""
) -> Evaluation:
    """Evaluate a run's agent and the rule-based ones in an environment, which may be another than its own.

    The best policy by validation reward acts; results are written to the run's folder.

    Args:
        run: the run.
        env: the environment.
        seeds: training runs of each agent in each context.
        device: where the models train.
        compare: further rule-based agents, by name, as the path of a TOML or as a policy file.
        prefix: put before the names of the files it writes.

    Raises:
        ValueError: the policy does not fit the environment.
    """
    agent = run.agent.build()
    settings = env.with_overrides(agent.env)
    single = settings.build(device=device)
    model = load_policy(run, agent, single) if agent.learns else None
    step = 0 if model is None else getattr(model, "num_timesteps", 0)

    plain = env.with_overrides({"actions": "box"}).build(device=device)  # as the rules need it
    rules = [agent_definition(name) for name in (*rule_names(plain.control, plain.action_space), *compare)]
    others = {name: rule.build() for name, rule in distinct_names(run.agent, rules).items()}
    learning = [name for name, other in others.items() if other.learns]
    if learning:
        raise ValueError(
            f"--compare takes rule-based agents, and {learning[0]} has to be trained: run it itself"
        )

    entries = [Entry(run.agent.name, agent, model)]
    entries += [Entry(name, other) for name, other in others.items()]
    result = evaluate(env, entries, run.agent.name, seeds=seeds, device=device)
    write_report(result, run.folder, step, prefix)
    return result


def load_policy(run: Run, agent: SB3Agent, env: Any) -> "BaseAlgorithm":
    """The run's best policy (the last one where no best was found yet), checked against an environment.

    Raises:
        ValueError: observations or actions of the environment have another form.
    """
    model = agent.load(best_model(run.folder))
    for what in ("observation_space", "action_space"):
        own, wanted = getattr(model, what), getattr(env, what)
        if own != wanted:
            raise ValueError(
                f"the policy of {run.folder} was trained for the {what.replace('_', ' ')} {own}, this "
                f"environment has {wanted}; control, bins and actions must be those of {run.env.name}"
            )

    return model
