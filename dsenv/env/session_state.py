"""The state of a session: what its episodes need to go on, and what they are of."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from dsenv.describe import attributes_of, describe
from dsenv.env.context import Context
from dsenv.env.session import Session
from dsenv.env.stacked_selector import make_augmentation
from dsenv.env.state import check_same, load_fixed, state_of, state_of_fixed
from dsenv.plain import digest, encoded
from dsenv.states import fitted, listed
from dsenv.tasks.dataset import Dataset

SHOWN_SAMPLES = 512


def describe_session(session: Session) -> dict[str, Any]:
    """Task, form and data of a session, for a state to be compared with."""
    replicas, task = session.trainer.replicas, session.task
    parameters = replicas.parameters_of(0)
    described = {
        "recipe": describe(task.recipe),
        "loss": describe(task.loss),
        "model": session.model_settings,
        "parameters": {name: f"{value.dtype} {tuple(value.shape)}" for name, value in parameters.items()},
    }
    found = {"task": described, "form": replicas.form, "data": describe_data(task.dataset)}
    has_own_interval = session.config.datasets and "interval" in session.config.datasets[session.dataset]
    return found | ({"interval": session.config.interval} if has_own_interval else {})


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Fingerprint of training and validation split: length, digest of all labels and of some samples."""
    found: dict[str, Any] = {"name": dataset.name, "classes": dataset.classes}
    if not dataset.classes:
        found["kind"] = describe(dataset.kind)
    for name, split in (("train", dataset.train), ("validation", dataset.validation)):
        step = max(1, len(split) // SHOWN_SAMPLES)
        found[name] = {
            "samples": len(split),
            "shape": list(split.images.shape[1:]),
            "labels": digest(split.labels),
            "inputs": digest(split.images[::step]),
        }
    return found


def state_of_session(session: Session) -> dict[str, Any]:
    """Everything needed to continue the episodes of a session.

    Raises:
        ValueError: a part remembers more than its state says.
    """
    parts, built = session.fixed_parts(), session.built
    if session.task.loss is not None and attributes_of(parts.pop("loss")) != built["loss"]:
        raise ValueError("the task's loss changes while it is used, and no state holds that; use a function")
    controllers = [
        state_of(part, partial(make_augmentation, session.augment or "given", session.trainer, replica))
        for replica, part in enumerate(session.controllers or ())
    ]

    return {
        **describe_session(session),
        "trainer": session.trainer.state_dict(),
        "streams": session.streams.state_dict(),
        "context": [context.plain() for context in session.context],
        "selector": session.stacked_selector.state_dict(),
        "candidate_forwards": session.candidate_sampler.extra_forwards.copy(),
        "controllers": controllers,
        "reward": session.reward_tracker.state_dict(),
        "parts": {name: state_of_fixed(part, built[name]) for name, part in parts.items()},
        "planned": session.planned.copy(),
        "finished": session.finished.copy(),
        "history": session.history.state_dict(),
        "state": session.state.state_dict(),
    }


def load_session(session: Session, state: Mapping[str, Any]) -> None:
    """Continue from `state_of_session`; after an error the session is of no use.

    Raises:
        ValueError: the state is of other data, another task or other parts.
    """
    for name, own in describe_session(session).items():
        check_same(name, encoded(own), encoded(state[name]))
    if "interval" in state and "interval" not in describe_session(session):
        raise ValueError(
            f"the state is of a data set with an interval of its own, {state['interval']}; this one has none"
        )

    # What trains, and what is known of the training runs
    session.trainer.load_state_dict(state["trainer"])
    session.streams.load_state_dict(state["streams"])
    session.state.load_state_dict(state["state"])
    session.reward_tracker.load_state_dict(state["reward"])
    session.history.load_state_dict(state["history"])
    session.planned = fitted("planned", state["planned"], session.planned)
    session.finished = fitted("finished", state["finished"], session.finished)
    session.selection = None
    session.context = [Context(**values) for values in listed("context", state["context"], session.count)]
    session.show_targets()

    # The parts of each episode
    session.stacked_selector.load_state_dict(state["selector"], session.state.pool)
    forwards = session.candidate_sampler.extra_forwards
    forwards[:] = fitted("candidate_forwards", state["candidate_forwards"], forwards)
    controllers = listed("controllers", state["controllers"], len(session.controllers or ()))
    for replica, saved in enumerate(controllers):
        assert session.controllers is not None and session.augment is not None
        session.controllers[replica] = make_augmentation(session.augment, session.trainer, replica)
        session.controllers[replica].load_state_dict(saved)
    for name, saved in state["parts"].items():
        load_fixed(session.fixed_parts()[name], saved)
