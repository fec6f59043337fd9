"""Without transformers: dsenv works, and what asks for a Trainer says how to install it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.fast
HEAVY = ("transformers", "trl", "datasets", "accelerate")


def test_a_missing_package_names_the_command(monkeypatch):
    for name in HEAVY:
        monkeypatch.setitem(sys.modules, name, None)
    from dsenv.integrations.huggingface import DataPlanMixin

    class MyTrainer(DataPlanMixin):
        pass

    with pytest.raises(ValueError, match=r'pip install "dsenv-rl\[huggingface\]"'):
        MyTrainer(plan={"ratio": 0.5})


def test_nothing_of_it_is_imported_by_dsenv_or_by_the_adapter():
    code = (
        f"import sys, dsenv, dsenv.integrations.huggingface; print([n for n in {HEAVY} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_settings_that_the_trainer_says_itself_are_refused():
    from dsenv.integrations.huggingface import DataPlanMixin

    for name in ("epochs", "batch_size", "accumulate", "seed", "world", "data"):
        with pytest.raises(ValueError, match=rf"'{name}': \.\.\.}} follows from"):
            DataPlanMixin(plan={name: 1})
