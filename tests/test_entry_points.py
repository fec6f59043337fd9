"""What a text names is looked at before it is called; a policy file names nothing that is imported."""

import pytest
import torch

import dsenv
from dsenv import catalogue
from dsenv.catalogue import Definition, definition, import_entry_point
from dsenv.control.registry import make_control
from dsenv.tasks import Task
from tests import entry_points as named
from tests.policy.policies import new_policy

pytestmark = pytest.mark.fast

HERE = "tests.entry_points"
WRONG = (
    "os:system",
    "subprocess:run",
    "subprocess:Popen",
    "builtins:exec",
    "builtins:eval",
    "builtins:open",
    "shutil:rmtree",
    "os:environ",
    "torch:load",
    "pickle:loads",
    "pathlib:Path",
    f"{HERE}:bare",
    f"{HERE}:text",
    f"{HERE}:Thing",
    f"{HERE}:thing",
    f"{HERE}:CALLED",
)


@pytest.fixture(autouse=True)
def nothing_is_called():
    named.CALLED.clear()
    yield
    assert named.CALLED == []


ROWS = (torch.zeros(20, 3), torch.arange(20) % 2)
PLACES = {
    "selector": lambda choice: dsenv.load("envs", "Tiny-Ratio-v0", selector=choice).reset(seed=0),
    "reward": lambda choice: dsenv.load("envs", "Tiny-Ratio-v0", reward=choice),
    "volume": lambda choice: dsenv.load("envs", "Tiny-Curriculum-v0", volume=choice).reset(seed=0),
    "augment": lambda choice: dsenv.load("envs", "Tiny-Ratio-v0", augment=choice).reset(seed=0),
    "control": lambda choice: make_control(choice, 5, 0.5),
    "dataset": lambda choice: Task.from_config(dataset=choice, model="mlp"),
    "model": lambda choice: Task.from_config(dataset="iris", model=choice),
    "plan": lambda choice: dsenv.DataPlan(ROWS, epochs=2, batch_size=5, selector=choice),
    "check": dsenv.check_selector,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_part_of_another_kind_is_refused_and_not_called(place):
    for number, entry_point in enumerate(WRONG):
        table = {"name": entry_point, "args": ["true"], "command": "true"}
        with pytest.raises(ValueError, match=rf"'{entry_point}' must be a \w+"):
            PLACES[place](table if number % 2 else entry_point)


def test_a_loss_of_another_kind_is_refused_and_not_called():
    for entry_point in WRONG:
        with pytest.raises(ValueError, match=r"loss .* must be a Tensor"):
            Task.from_config(dataset="iris", model="mlp", loss=entry_point)


@pytest.mark.parametrize("kind", ["envs", "agents"])
@pytest.mark.parametrize("entry_point", WRONG)
def test_a_definition_of_another_kind_is_refused_and_not_called(kind, entry_point, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(f'entry_point = "{entry_point}"\n[kwargs]\nargs = ["true"]\ncommand = "true"\n')
    found = definition(kind, path)
    for build in (found.build, lambda: dsenv.load(kind, path), found.resolve):
        with pytest.raises(ValueError, match=f"{kind[:-1]} '{entry_point}' must be a (Env|AgentLike)"):
            build()
    if kind == "envs":
        with pytest.raises(ValueError, match="must be a Env"):
            found.build_vector(2)


def test_an_algorithm_and_a_policy_of_another_kind_are_refused():
    for entry_point in WRONG:
        with pytest.raises(
            ValueError, match=r"algorithm must name a class derived from .*BaseAlgorithm.*not called"
        ):
            dsenv.load("agents", "ppo", algorithm=entry_point).check()
        with pytest.raises(
            ValueError, match=r"policy must name a class derived from .*BasePolicy.*not called"
        ):
            dsenv.load("agents", "ppo", policy=entry_point).check()


def test_functions_that_say_what_they_make_are_called():
    env = dsenv.load("envs", "Tiny-Ratio-v0", selector=f"{HERE}:selector")
    env.reset(seed=0)
    assert Task.from_config(dataset=f"{HERE}:data", model="torch.nn:Identity").dataset.sample_shape == (3,)
    with pytest.raises(ValueError, match="must be a Selector, got int"):
        dsenv.load("envs", "Tiny-Ratio-v0", selector=f"{HERE}:wrong_selector").reset(seed=0)


def test_a_class_that_lacks_a_method_is_named():
    with pytest.raises(ValueError, match="HalfSelector lacks select"):
        dsenv.load("envs", "Tiny-Ratio-v0", selector=f"{HERE}:HalfSelector").reset(seed=0)
    with pytest.raises(ValueError, match="HalfSelector lacks select"):
        dsenv.load("envs", "Tiny-Ratio-v0", selector=named.HalfSelector).reset(seed=0)


@pytest.mark.parametrize(
    "entry_point",
    ["", ":", "a:", ":b", "a", "a.:b", ".a:b", "a..b:c", "a b:c", "a:b c", "a:b.c", "a:b:c", "\0:x", 5],
)
def test_what_is_no_entry_point_is_named(entry_point):
    with pytest.raises(ValueError, match="an entry point has the form 'module:attribute', got"):
        import_entry_point(entry_point)
    with pytest.raises(ValueError, match="an entry point has the form"):
        Definition("agents", "x", entry_point).build()


def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_module_of_mine.py").write_text("1 / 0\n")
    (tmp_path / "unfinished_module_of_mine.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="importing broken_module_of_mine raised ZeroDivisionError"):
        import_entry_point("broken_module_of_mine:x")
    with pytest.raises(ValueError, match="importing unfinished_module_of_mine raised SyntaxError"):
        import_entry_point("unfinished_module_of_mine:x")


@pytest.mark.parametrize("name", ["os:system", f"{HERE}:bare", "dsenv.control.ratio:RatioControl"])
def test_a_policy_file_imports_nothing_that_it_names(name, tmp_path, monkeypatch):
    import tomllib

    import tomli_w

    from dsenv.policy import Policy, storage

    policy = new_policy("ratio")
    card = tomllib.loads(policy.card.text())
    card["control"] = {"name": name}
    path = tmp_path / "x.safetensors"
    storage.write(path, policy.weights, tomli_w.dumps(card))
    monkeypatch.setattr(catalogue, "import_entry_point", lambda _: pytest.fail("imported"))
    with pytest.raises(ValueError, match="no control that a policy file may name called"):
        Policy.load(path)
