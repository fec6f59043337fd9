"""Inside of an environment, and the action that means nothing in particular."""

import numpy as np


def only(env):
    """The session of an environment that has no `datasets`, and so only one."""
    (session,) = env.episodes.sessions()
    return session


def noughts(env):
    """The action of zeros, one row for each of a vector's environments."""
    return np.zeros(env.action_space.shape, np.float32)
