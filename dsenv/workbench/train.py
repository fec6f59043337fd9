"""Train an agent in an environment, resume it, evaluate it."""

import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from dsenv.agents.base import build_agent
from dsenv.agents.callbacks import Checkpoints, EventFile, ProgressBar, SeededEval
from dsenv.agents.checkpoint import load_model_state, spaces_state
from dsenv.agents.sb3 import SB3Agent
from dsenv.agents.scalars import EnvScalars
from dsenv.catalogue import Definition, definition, names
from dsenv.evaluation.compare import Entry, Evaluation, evaluate
from dsenv.evaluation.report import write_report
from dsenv.tracking.layout import EVALUATION
from dsenv.workbench import checkpoint
from dsenv.workbench.checkpoint import State
from dsenv.workbench.cluster import Cluster, begun_anew, is_of, make_vec_env
from dsenv.workbench.policies import agent_definition, is_written, write_policy
from dsenv.workbench.run import Run
from dsenv.workbench.stop import Stop

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecEnv

EVALUATIONS = 15  # on the validation reward during training, to find the best policy
EVAL_SEED = 500_000_000
SAVE_EVERY = 60.0  # seconds between two checkpoints


def train(
    run: Run,
    agent: SB3Agent,
    device: str,
    *,
    state: State | None = None,
    save_every: float = SAVE_EVERY,
    stop: Stop | None = None,
    cluster: Cluster | None = None,
) -> bool:
    """Train an agent until its steps are done; checkpoints, policies and logs go to the run's folder.

    Args:
        run: where.
        agent: what.
        device: where the models train; the policy itself stays where its hyperparameters say.
        state: the checkpoint to go on from.
        save_every: seconds between two checkpoints; there is one after each evaluation as well.
        stop: asked at each rollout start; where a signal came, the run is saved and training stops.
        cluster: whose actors hold the training runs; None for this process.

    Returns:
        Whether all steps were done; False after Ctrl-C or another signal.

    Raises:
        ValueError: the checkpoint is not one of this agent and environment.
        OSError: a file cannot be written; the last checkpoint stands.
    """
    stop = stop or Stop()
    settings = run.env.with_overrides(agent.env)
    if state is not None and not is_of(state, cluster):
        state = begun_anew(state)
    env = make_vec_env(settings, agent.num_envs, device, cluster)
    try:
        return _train(
            run, agent, env, _evaluation(run, agent, settings, device, state), state, save_every, stop
        )
    finally:
        env.close()


def _train(
    run: Run,
    agent: SB3Agent,
    env: "VecEnv",
    evaluation: SeededEval,
    state: State | None,
    save_every: float,
    stop: Stop,
) -> bool:
    """Train in an environment; see `train`."""
    model = _new_model(run, agent, env, state)
    scalars = EnvScalars(layout_first=[EVALUATION])
    known = spaces_state(env)

    def save(found: State, is_exported: bool) -> None:
        checkpoint.write(run, {"spaces": known, **found})
        if is_exported:
            checkpoint.export(run, agent, {"spaces": known, **found})

    parts = {"scalars": scalars, "evaluation": evaluation}
    saving = Checkpoints(save, parts, evaluation, save_every, stop.is_asked, state)
    is_finished = _learn(model, agent.steps, scalars, [evaluation, saving], stop, resume=state is not None)

    if is_finished:
        saving.save(at_end=True)
    # After a second signal the last checkpoint stands, and nothing more is written
    last = checkpoint.read(run) if is_finished or saving.has_stopped else None
    if last is not None:
        complete(run, agent, last, env)
    return is_finished


def _new_model(run: Run, agent: SB3Agent, env: "VecEnv", state: State | None) -> "BaseAlgorithm":
    """The model, as new or where it was left, and its log."""
    model = agent.build(env, run.seed)
    hidden_from = None
    if state is not None:
        done = checkpoint.steps_done(state)
        load_model_state(model, state["agent"])
        env.seed(int(np.random.SeedSequence([run.seed, done]).generate_state(1)[0]))
        hidden_from = done + 1
    elif any(run.folder.glob("events.out.tfevents.*")):
        hidden_from = 0  # it was begun before, and has no checkpoint

    model.set_logger(Logger(str(run.folder), [EventFile(str(run.folder), hidden_from)]))
    return model


def _evaluation(
    run: Run, agent: SB3Agent, settings: Definition, device: str, state: State | None
) -> "SeededEval":
    """Evaluates the policy EVALUATIONS times, and keeps the best one."""
    # A resumed run keeps its number of episodes: scores compare only on the same episodes
    past = checkpoint.record_of(state)["results"] if state is not None else []
    episodes = len(past[0]) if past else agent.num_envs
    every = max(1, math.ceil(agent.steps / agent.num_envs / EVALUATIONS))
    return SeededEval(make_vec_env(settings, episodes, device), EVAL_SEED + run.seed, episodes, every)


def _learn(
    model: "BaseAlgorithm",
    steps: int,
    scalars: "EnvScalars",
    callbacks: Sequence["BaseCallback"],
    stop: Stop,
    *,
    resume: bool,
) -> bool:
    """Train until the model has done that many steps, with scalars and a bar; False after a signal."""
    bar = ProgressBar(steps, scalars)
    try:
        with stop.at_checkpoints():
            model.learn(
                max(0, steps - model.num_timesteps),
                callback=[scalars, *callbacks, bar],
                reset_num_timesteps=not resume,
                log_interval=20 if isinstance(model, OffPolicyAlgorithm) else 1,
            )
        return True
    except KeyboardInterrupt:
        return False
    finally:
        bar.close()
        with contextlib.suppress(OSError):  # of a full disk, which was said before
            for output in model.logger.output_formats:
                output.close()


def complete(run: Run, agent: SB3Agent, state: State, env: "VecEnv") -> bool:
    """Write what a checkpoint's run should have beside it and has not; returns whether there was any.

    Args:
        run: whose folder takes the files.
        agent: of the run.
        state: its checkpoint.
        env: an environment of the run, for the card of the policy.
    """
    is_exported = checkpoint.is_exported(run, state)
    if not is_exported:
        checkpoint.export(run, agent, state)

    best, reward = checkpoint.best_policy(run, agent, state), checkpoint.best_of(state)["mean_reward"]
    if is_written(run, best, reward):
        return not is_exported
    return write_policy(run, best, env, reward) is not None or not is_exported


def rule_names(control: Any, action_space: Any) -> list[str]:
    """The rule-based agents of the catalogue that answer this environment's own question.

    Published methods replace the question (their definitions set `control`); ask for them by name.
    """
    fitting = []
    for name in names("agents"):
        agent = build_agent(definition("agents", name))
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
    run: Run,
    env: Definition,
    seeds: int,
    device: str,
    compare: Sequence[str] = (),
    prefix: str = "",
    *,
    curves: bool = True,
    known: Evaluation | None = None,
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
        curves: score the test split after every interval too.
        known: an evaluation of the same rules in the same environment on the same seeds: they are taken over
            from it, and not run again.

    Raises:
        ValueError: the policy does not fit the environment.
    """
    agent: Any = build_agent(run.agent)
    settings = env.with_overrides(agent.env)
    settings.vector_class()  # what is no environment is not called
    single = settings.build(device=device)
    model = load_policy(run, agent, single) if agent.learns else None
    step = 0 if model is None else getattr(model, "num_timesteps", 0)

    entries = [Entry(run.agent.name, agent, model)]
    if known is None:
        others = rules_beside(run.agent, env, device, compare)
        entries += [Entry(name, other) for name, other in others.items()]
    result = evaluate(env, entries, run.agent.name, seeds=seeds, device=device, curves=curves, known=known)

    followed = {} if known is None else {"followed": [run.agent.name]}
    about: dict[str, str | float] = {"run": run.folder.name, "agent seed": run.seed}
    write_report(result, run.folder, step, prefix, about, **followed)
    return result


def rules_beside(
    own: Definition, env: Definition, device: str, compare: Sequence[str] = ()
) -> dict[str, Any]:
    """The agents that an agent is compared with in an environment, by name.

    Args:
        own: the agent.
        env: the environment.
        device: where its models train.
        compare: further agents that do not learn.

    Raises:
        ValueError: one of these has to be trained.
    """
    plain = env.with_overrides({"actions": "box"}).build(device=device)  # as the rules need it
    rules = [agent_definition(name) for name in (*rule_names(plain.control, plain.action_space), *compare)]
    others = {name: build_agent(rule) for name, rule in distinct_names(own, rules).items()}
    learning = [name for name, other in others.items() if other.learns]
    if learning:
        raise ValueError(
            f"--compare takes rule-based agents, and {learning[0]} has to be trained: run it itself"
        )
    return others


def load_policy(run: Run, agent: SB3Agent, env: Any) -> "BaseAlgorithm":
    """The run's best policy (the last one where no best was found yet), checked against an environment.

    Raises:
        FileNotFoundError: the run has no checkpoint yet.
        ValueError: observations or actions of the environment have another form.
    """
    state = checkpoint.read(run)
    if state is None:
        raise FileNotFoundError(
            f"{run.folder} has no whole checkpoint: train it with python train_agent.py --resume {run.folder}"
        )

    model = checkpoint.best_policy(run, agent, state)
    for what in ("observation_space", "action_space"):
        own, wanted = getattr(model, what), getattr(env, what)
        if own != wanted:
            raise ValueError(
                f"the policy of {run.folder} was trained for the {what.replace('_', ' ')} {own}, this "
                f"environment has {wanted}; control, bins and actions must be those of {run.env.name}"
            )

    return model
