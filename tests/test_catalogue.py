import gymnasium
import pytest

import dsenv
from dsenv.augment import CONTROLLERS
from dsenv.catalogue import Definition, build_part, definition, import_entry_point, merge
from dsenv.control.registry import CONTROLS
from dsenv.env.rewards import REWARDS
from dsenv.select.registry import SELECTORS
from dsenv.volume.registry import SCHEDULES

pytestmark = pytest.mark.fast

CLASSES = {
    "selectors": (
        SELECTORS,
        "random UniformRandom, fixed_random FixedRandom, infobatch InfoBatch, ucb UCB, "
        "epsilon_greedy EpsilonGreedy, ranked Ranked, small_loss SmallLoss, trim Trim, order_dp OrderDP, "
        "rho_loss RhoLoss, data_agent DataAgent, el2n EL2N, forgetting Forgetting, grand GraNd, ccs CCS, "
        "moderate Moderate, herding Herding, k_center KCenter, glister Glister, divbs DivBS",
    ),
    "schedules": (SCHEDULES, "constant Constant, pods Pods, linear Linear, cosine Cosine, step Step"),
    "controllers": (
        CONTROLLERS,
        "none NoAugmentation, fixed FixedStrength, given GivenStrength, trivial TrivialAugment, "
        "rand_augment RandAugment, ent_augment EntAugment, ada_augment AdaAugment, sada SADA",
    ),
    "rewards": (
        REWARDS,
        "validation ValidationReward, composite CompositeReward, cost_aware CostAwareReward, "
        "final FinalReward",
    ),
    "controls": (
        CONTROLS,
        "curriculum CurriculumControl, mask MaskControl, ratio RatioControl, strength StrengthControl, "
        "joint JointControl, rule RuleControl",
    ),
}


@pytest.mark.parametrize(("known", "wanted"), CLASSES.values(), ids=CLASSES)
def test_each_name_of_a_part_is_that_of_its_class(known, wanted):
    found = {
        name: (import_entry_point(entry) if isinstance(entry, str) else entry).__name__
        for name, entry in known.items()
    }
    assert found == dict(pair.split() for pair in wanted.split(", "))


def test_names_are_the_stems_and_ids_are_registered():
    assert "Digits-Curriculum-v0" in dsenv.names("envs")
    assert {"ppo", "random", "all_data_plus_validation"} <= set(dsenv.names("agents"))
    for name in dsenv.names("envs"):
        assert f"dsenv/{name}" in gymnasium.registry


def test_make_works_by_id_and_by_module_prefix():
    env = gymnasium.make("dsenv:dsenv/Tiny-Curriculum-v0", ratio=0.3)
    assert env.unwrapped.config.ratio == 0.3
    assert env.spec.id == "dsenv/Tiny-Curriculum-v0"


@pytest.mark.parametrize("name", ["Tiny-Curriculum-v0", "dsenv/Tiny-Curriculum-v0"])
def test_load_by_name_and_by_id(name):
    assert dsenv.load("envs", name).config.intervals == 4


def test_load_by_path(tmp_path):
    path = tmp_path / "mine.toml"
    text = 'entry_point = "dsenv.agents.rules:LossRankRule"\n[kwargs]\nkeep = "small"\n'
    path.write_text(text)
    assert not dsenv.load("agents", str(path)).learns


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("envs", "digits-curiculum-v0", "Did you mean 'Digits-Curriculum-v0'"),
        ("agents", "pppo", "no agent called 'pppo'. Did you mean 'ppo'"),
        ("agent", "ppo", "Did you mean 'agents'"),
    ],
)
def test_unknown_names_answer_with_the_nearest(kind, name, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        dsenv.load(kind, name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratoi": 0.5}, "no setting of environment called 'ratoi'. Did you mean 'ratio'"),
        ({"task": {"recipe": {"momentun": 0.9}}}, "Did you mean 'momentum'"),
        ({"task": {"dataset": {"trian": 10}}}, "Did you mean 'train'"),
        ({"task": {"model": {"hiden": [1]}}}, "Did you mean 'hidden'"),
        ({"task": {"modle": {}}}, "Did you mean 'model'"),
        ({"control": {"name": "ratoi"}}, "no control called 'ratoi'. Did you mean 'ratio'"),
        ({"control": {"name": "ratio", "minimun": 0.2}}, "Did you mean 'minimum'"),
        ({"context": {"label_nois": 0.2}}, "Did you mean 'label_noise'"),
        ({"rank_by": "los"}, "Did you mean 'loss'"),
        ({"trainer": {"forn": "loop"}}, "forn"),
    ],
)
def test_unknown_settings_name_the_key_and_the_nearest(settings, message):
    with pytest.raises((ValueError, TypeError), match=message.replace(".", r"\.")):
        dsenv.load("envs", "Tiny-Curriculum-v0", **settings)


def test_missing_file_and_broken_files_say_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="no definition at"):
        definition("envs", str(tmp_path / "none.toml"))
    path = tmp_path / "bad.toml"
    path.write_text("entry_point = ")
    with pytest.raises(ValueError, match="not valid TOML"):
        definition("envs", str(path))
    path.write_text('entrypoint = "a:b"')
    with pytest.raises(ValueError, match="Did you mean 'entry_point'"):
        definition("envs", str(path))
    path.write_text('entry_point = "dsenv.agents.rules:NeutralRul"')
    with pytest.raises(ValueError, match="Did you mean 'NeutralRule'"):
        definition("agents", str(path)).build()
    path.write_text('entry_point = "no_such_module_here:x"')
    with pytest.raises(ValueError, match="PYTHONPATH"):
        definition("agents", str(path)).build()


def test_merge_goes_into_tables_and_replaces_other_parts():
    base = {"ratio": 0.5, "model": {"name": "mlp", "hidden": [64]}}
    assert merge(base, {"model": {"hidden": [8]}})["model"] == {"name": "mlp", "hidden": [8]}
    assert merge(base, {"model": {"name": "small_cnn"}})["model"] == {"name": "small_cnn"}
    assert merge({"control": "mask"}, {"control": {"trim": True}})["control"] == {
        "name": "mask",
        "trim": True,
    }
    assert merge({"control": "mask"}, {"control": {"name": "ratio"}})["control"] == {"name": "ratio"}
    assert base["model"] == {"name": "mlp", "hidden": [64]}


def test_a_definition_needs_no_kwargs():
    assert Definition("agents", "x", "dsenv.agents.rules:NeutralRule").build().learns is False


@pytest.mark.parametrize("name", dsenv.names("agents"))
def test_every_agent_builds_and_its_file_says_where_it_comes_from(name):
    from dsenv.catalogue import summary

    agent = dsenv.load("agents", name)
    assert isinstance(agent.learns, bool)
    assert len(summary("agents", name)) > 20


def test_a_setting_that_a_class_hands_on_and_nobody_takes():
    with pytest.raises(ValueError, match=r"augment 'trivial' has no setting 'unknown'"):
        build_part("augment", CONTROLLERS, {"name": "trivial", "unknown": 1})
