"""The contracts of selectors, schedules, controllers and rewards, as checks of your own parts."""

from dsenv.checks.controller import check_controller
from dsenv.checks.reward import check_reward
from dsenv.checks.schedule import check_schedule
from dsenv.checks.selector import check_selector

__all__ = ["check_controller", "check_reward", "check_schedule", "check_selector"]
