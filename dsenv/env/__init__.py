"""The environment: training a model, one interval a step, as a Gymnasium environment."""

from dsenv.env.config import EnvConfig
from dsenv.env.training_env import TrainingEnv
from dsenv.env.vector_env import TrainingVectorEnv

__all__ = ["EnvConfig", "TrainingEnv", "TrainingVectorEnv"]
