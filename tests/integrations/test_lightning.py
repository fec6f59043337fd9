"""Plans in PyTorch Lightning: what is trained, logged, validated and resumed, alone and on two ranks."""

import copy
import multiprocessing
import pickle
import re
import warnings
from multiprocessing.context import set_spawning_popen
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason='needs the extra: pip install "dsenv-rl[lightning]"')

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger
from torch import distributed
from torch.utils.data import DataLoader

from dsenv import DataPlan
from dsenv.integrations.lightning import PlanCallback
from dsenv.integrations.lightning_checks import check_batch, check_trainer
from tests.integrations import lightning_cases as own
from tests.integrations.cases import (
    STOPS,
    VOLUMES,
    Case,
    check_result,
    check_resumed,
    new_plan,
    reference,
)
from tests.integrations.cases import (
    _free_port as free_port,
)
from tests.integrations.lightning_cases import CASES, Model, SaveIn, fitted, new_trainer
from tests.plan.ranks import Rows

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore:.*treespec.*")

# One process


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("volume", VOLUMES)
def test_samples_weights_steps_rate_and_validations_are_as_planned(
    name: str, volume: str, tmp_path: Path
) -> None:
    case = Case(volume, accumulate=2 if name == "estimated steps" else 1)
    check_result([CASES[name](tmp_path, case)], reference(case))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_anywhere_is_gone_on_with_bit_for_bit(workers: int, tmp_path: Path) -> None:
    volume, stops = ("pods", STOPS) if not workers else ("rising", ("none", "last 0", "in 2", "last 2"))
    for name in ("plan.loader",) if workers else ("plan.loader", "own DataLoader"):
        found = {stop: CASES[name](tmp_path, Case(volume, workers=workers, stop=stop)) for stop in stops}
        for stop in stops:
            check_resumed([found[stop]], [found["none"]])


def test_workers_of_a_loader_of_the_users_own_do_not_read_the_epoch_before(tmp_path: Path) -> None:
    case = Case("pods", workers=2)
    found = [CASES["own DataLoader"](tmp_path, case._replace(stop=stop)) for stop in ("last 0", "none")]
    check_resumed([found[0]], [found[1]])


@pytest.mark.parametrize(
    ("hook", "calls"),
    [("on_validation_end", (1, 3)), ("on_train_epoch_end", (2, 4)), ("on_train_epoch_start", (2, 3))],
)
@pytest.mark.parametrize("settings", [{}, {"max_steps": 12, "max_epochs": None}, {"val_check_interval": 0.5}])
def test_a_checkpoint_of_any_hook_is_gone_on_with(
    hook: str, calls: Any, settings: Any, tmp_path: Path
) -> None:
    whole = fitted(new_plan(Case("pods")), **settings)
    for call in calls:
        save = SaveIn(tmp_path / "x.ckpt", hook, call)
        found = own.stopped_and_resumed(lambda: new_plan(Case("pods")), save, settings)
        check_resumed([found], [whole])  # type: ignore[list-item]


def test_a_validation_that_was_due_after_the_batch_of_the_checkpoint_is_done(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"val_check_interval": 0.5}
    whole = fitted(new_plan(Case("pods")), **settings)
    save = SaveIn(tmp_path / "x.ckpt", "on_train_batch_end", step=3)
    found = own.stopped_and_resumed(lambda: new_plan(Case("pods")), save, settings)
    assert whole.validations == 6
    check_resumed([found], [whole])  # type: ignore[list-item]


def test_a_checkpoint_of_a_validation_between_two_steps_is_said_at_the_resume(tmp_path: Path) -> None:
    def resume(interval: int) -> None:
        save = SaveIn(tmp_path / "x.ckpt", "on_validation_end", 1)
        settings = {"val_check_interval": interval}
        own.stopped_and_resumed(lambda: new_plan(Case("constant", accumulate=4)), save, settings)

    resume(4)
    with pytest.raises(UserWarning, match=r"after 2 of the 4 batches of a step.*every_n_train_steps"):
        resume(6)


def test_a_count_that_the_selector_sets_itself_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VOLUMES, "own count", {"selector": "infobatch"})
    case = Case("own count")
    expected = reference(case)
    assert expected.steps < 4 * 6  # InfoBatch leaves samples out
    check_result([fitted(new_plan(case))], expected)
    with pytest.raises(ValueError, match=r"plan\.lr_scheduler"):
        fitted(new_plan(case), by_progress=False)


def test_numbers_of_validations() -> None:
    # Epochs of 6, 1, 4 and 1 batches
    def validations(**settings: Any) -> int:
        return fitted(new_plan(Case("pods")), **settings).validations

    assert validations(val_check_interval=0.5) == 2 + 1 + 2 + 1
    assert validations(check_val_every_n_epoch=2) == 2
    assert validations(val_check_interval="00:01:00:00") == 0  # after a time
    assert validations(val_check_interval=5, check_val_every_n_epoch=None) == 12 // 5
    with pytest.raises(ValueError, match="epoch 1 of the plan has 1"):
        validations(val_check_interval=2)


def test_limits_and_lengths() -> None:
    def run(**settings: Any) -> Any:
        return fitted(new_plan(Case("rising")), by_progress=False, **settings)

    with pytest.warns(UserWarning, match="ended with 16 of its 48 chosen samples not trained on"):
        found = run_loud(limit_train_batches=2)
    assert found.steps == 8 and abs(found.last_rate) < 1e-9
    assert run(max_epochs=-1).steps == run(max_steps=15, max_epochs=None).steps == 15
    short = run(max_steps=4)
    assert short.steps == 4 and abs(short.last_rate) < 1e-9
    for settings, words in (
        ({"max_epochs": 5}, "longer than the plan, which has 4 epochs: give max_epochs=4"),
        ({"max_epochs": None}, "1000 is Lightning's default"),
        ({"max_epochs": None, "max_steps": 99}, "more than the 15 steps of the plan"),
        ({"limit_train_batches": 0.3}, "leaves no batch of the 2 of epoch 0"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            run(**settings)
    with pytest.raises(UserWarning, match=r"ends after epoch 1 of the plan, which has 4"):
        run(max_epochs=2)


def run_loud(**settings: Any) -> Any:
    """A run whose warnings are no errors."""
    plan = new_plan(Case("rising"))
    model, trainer = Model(plan, by_progress=False), new_trainer(plan, **settings)
    trainer.fit(model, plan.loader())
    model.found.steps, model.found.last_rate = (
        trainer.global_step,
        trainer.optimizers[0].param_groups[0]["lr"],
    )
    return model.found


def test_the_plan_is_not_touched_by_a_trial_run_or_an_evaluation(tmp_path: Path) -> None:
    plan = new_plan(Case("pods"))
    fitted(plan, fast_dev_run=2)
    assert plan.progress == 0 and plan.epoch_sampler.adapter is None

    model, trainer = Model(plan), new_trainer(plan, max_epochs=2)
    trainer.fit(model, plan.loader(), own.validation())
    assert type(trainer) is Trainer and plan.epochs_trained == 2
    trainer.save_checkpoint(tmp_path / "2.ckpt")
    found = fitted(plan, max_epochs=2)  # goes on with the plan's epochs 2 and 3
    assert {row.epoch for row in found.rows} == {2, 3} and plan.progress == 1
    trainer.validate(model, own.validation(), verbose=False, ckpt_path=tmp_path / "2.ckpt")
    assert plan.progress == 1
    with pytest.raises(ValueError, match="make a new DataPlan"):
        fitted(plan)


def test_a_fit_that_max_steps_ended_inside_an_epoch_loses_nothing(tmp_path: Path) -> None:
    plan = new_plan(Case("pods"))
    model, trainer = Model(plan), new_trainer(plan, max_steps=3)
    trainer.fit(model, plan.loader(), own.validation())
    trainer.save_checkpoint(tmp_path / "3.ckpt")
    found = fitted(new_plan(Case("pods")), checkpoint=tmp_path / "3.ckpt", found=model.found)
    whole = fitted(new_plan(Case("pods")))
    check_resumed([found], [whole])


def test_what_does_not_fit_is_refused() -> None:
    plan = new_plan(Case("pods"))

    def fit(*callbacks: Any, loader: Any = None, **settings: Any) -> None:
        trainer = new_trainer(plan, *callbacks, **settings)
        trainer.fit(Model(plan), plan.loader() if loader is None else loader)

    class Strange:
        strategy = type("DeepSpeedStrategy", (), {})()

    with pytest.raises(ValueError, match="DeepSpeedStrategy"):
        check_trainer(Strange(), None, plan)
    with pytest.raises(ValueError, match="bf16-true"):
        fit(precision="bf16-true")
    with pytest.raises(ValueError, match="overfit_batches=2"):
        fit(overfit_batches=2)
    with pytest.raises(ValueError, match="GradientAccumulationScheduler"):
        fit(GradientAccumulationScheduler({1: 2}))
    with pytest.raises(ValueError, match=r"accumulate_grad_batches=4\) and DataPlan\(accumulate=1\)"):
        fit(accumulate_grad_batches=4)
    for loader in (DataLoader(Rows(), 16), [plan.loader(), plan.loader()], plan.loader(stream=True)):  # type: ignore
        with pytest.raises(ValueError, match=r"must be plan\.loader\(\)"):
            fit(loader=loader)
    with pytest.raises(ValueError, match="takes the DataPlan"):
        PlanCallback(plan.loader())  # type: ignore[arg-type]
    assert plan.progress == 0 and plan.epoch_sampler.adapter is None
    fit()  # nothing of that is left behind


def test_a_checkpoint_without_the_plan_is_refused(tmp_path: Path) -> None:
    class Plain(Model):
        def training_step(self, batch: Any) -> Any:
            return self.net(batch[0][:, 1:]).square().mean()

    plan = new_plan(Case())
    trainer = Trainer(max_epochs=1, **own.QUIET)
    trainer.fit(Plain(plan), DataLoader(Rows(), 16))  # type: ignore[arg-type]
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="no state of a plan"):
        fitted(plan, checkpoint=tmp_path / "x.ckpt")


@pytest.mark.parametrize("kind", ["loader", "stream", "own, 0 workers", "own, 2 workers"])
def test_without_the_callback_it_is_named(kind: str) -> None:
    plan = new_plan(Case())
    loader: Any = plan.loader(stream=kind == "stream")
    if kind.startswith("own"):
        loader = own.own_loader(plan, int(kind[5]))
    with pytest.raises(ValueError, match=r"PlanCallback\(plan\)"):
        Trainer(max_epochs=4, use_distributed_sampler=False, **own.QUIET).fit(Model(plan), loader)


def test_metrics_rates_and_checkpoints_of_lightnings_own(tmp_path: Path) -> None:
    plan = new_plan(Case("pods"))
    saved = ModelCheckpoint(tmp_path, monitor="cost/samples seen", mode="max", save_last=True, save_top_k=-1)
    logger = CSVLogger(tmp_path)
    settings: dict[str, Any] = {"logger": logger, "log_every_n_steps": 1, "enable_checkpointing": True}
    trainer = new_trainer(plan, saved, LearningRateMonitor(), **settings)
    trainer.fit(Model(plan), plan.loader(), own.validation())

    with open(Path(logger.log_dir) / "metrics.csv", encoding="utf-8") as file:
        heads, *lines = [line.strip().split(",") for line in file]
    column = heads.index("cost/samples seen")
    assert [float(line[column]) for line in lines if line[column]] == [96, 112, 176, 192]
    assert len([line for line in lines if line[heads.index("lr-SGD")]]) == 12
    assert saved.best_model_score == 192 and (tmp_path / "last.ckpt").exists()


def test_early_stopping_leaves_the_rest_of_the_plan() -> None:
    class Stop(Model):
        def on_validation_epoch_end(self) -> None:
            self.log("flat", 1.0)

    plan = new_plan(Case("constant"))
    trainer = new_trainer(plan, EarlyStopping("flat", patience=1))
    trainer.fit(Stop(plan), plan.loader(), own.validation())
    assert trainer.current_epoch == 2 and plan.epochs_trained == 2


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions(precision: Any) -> None:
    found = fitted(new_plan(Case("pods")), precision=precision)
    assert found.steps == 12 and found.progress == 1


def test_modules_data_modules_and_hooks_of_the_user() -> None:
    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return plan.loader()

    class Manual(Model):
        automatic_optimization = False

        def training_step(self, batch: Any) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch))
            optimizer.step()

        def on_train_epoch_start(self) -> None:
            if self.plan.epoch == 1:
                self.plan.score(lambda inputs: (self.net(inputs[:, 1:]), inputs[:, 1:]))

    settings = {"selector": "herding", "ratio": 0.5, "uniform_epochs": 1, "volume": "linear"}
    plan = DataPlan(Rows(), epochs=4, batch_size=16, classes=4, **settings)
    model = Manual(plan)
    with warnings.catch_warnings():
        own.quiet()
        warnings.filterwarnings("ignore", ".*no `val_dataloader`.*")
        trainer = new_trainer(plan, reload_dataloaders_every_n_epochs=1)
        trainer.fit(model, datamodule=Data())
    assert trainer.global_step == len(model.found.rows) == plan.total_steps and plan.progress == 1


def test_the_callback_is_one_of_the_package_in_use() -> None:
    callback = PlanCallback(new_plan(Case()))
    for each in (callback, copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert isinstance(each, Callback) and isinstance(each, PlanCallback)
        assert each.state_key == "PlanCallback"
    set_spawning_popen(object())
    try:
        with pytest.raises(ValueError, match="spawned: take strategy='ddp'"):
            pickle.dumps(callback)
    finally:
        set_spawning_popen(None)
    check_batch(torch.zeros(1), None)

    lightning = pytest.importorskip("pytorch_lightning")

    class Old(lightning.LightningModule):  # type: ignore[name-defined]
        training_step, configure_optimizers = Model.training_step, Model.configure_optimizers

        def __init__(self, plan: DataPlan) -> None:
            super().__init__()
            self.plan, self.net, self.found, self.by_progress = plan, own.new_net(), own.Result(), True

    plan = new_plan(Case("rising"))
    trainer = lightning.Trainer(max_epochs=4, callbacks=[PlanCallback(plan)], **own.QUIET)
    trainer.fit(Old(plan), plan.loader())
    assert trainer.global_step == 15 and plan.progress == 1


# Two ranks, one launch

RANKED = [
    ("plan.loader", Case("pods", 2)),
    ("plan.loader", Case("pods", 2, stop="in 2")),
    ("plan.loader", Case("pods", 2, stop="last 0")),
    ("own DataLoader", Case("rising", 2, workers=2)),
    ("plan.loader", Case("rising", 2, workers=2)),
    ("plan.loader", Case("rising", 2, workers=2, stop="last 2")),
    ("estimated steps", Case("rising", 2, 2)),
    ("estimated steps", Case("rising", 2, 2, stop="first 1")),
    ("FSDP2", Case("constant", 2)),
    ("Fabric", Case("pods", 2)),
    ("Fabric, own DataLoader", Case("constant", 2)),
]
needs_ranks = pytest.mark.skipif(not distributed.is_available(), reason="torch without torch.distributed")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: Any) -> tuple[Path, list[Any], str]:
    """Folder, exit codes and words of rank 0 of two processes, started once for all of it.

    They are forked from a process that has imported everything: each import of Lightning takes seconds.
    """
    folder, ports = tmp_path_factory.mktemp("ranks"), [free_port(), free_port()]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integrations.lightning_cases"])
    started = [
        context.Process(target=own.run_rank, args=(folder, rank, ports, RANKED), daemon=False)
        for rank in (0, 1)
    ]
    for each in started:
        each.start()
    for each in started:
        each.join(300)
        each.kill()
    return folder, [each.exitcode for each in started], (folder / "rank0.log").read_text()


@pytest.fixture(scope="module")
def ranked(launched: Any) -> dict[Any, Any]:
    folder, _, said = launched
    assert (folder / "rank0.pt").exists() and (folder / "rank1.pt").exists(), said
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    return {call: [each[number] for each in found] for number, call in enumerate(RANKED)}


@needs_ranks
@pytest.mark.parametrize("call", RANKED, ids=lambda call: f"{call[0]}, {call[1]}")
def test_ranks_share_what_one_process_trains(call: Any, ranked: Any) -> None:
    name, case = call
    check_result(ranked[call], reference(case))
    one, two = ({(row.epoch, i) for row in each.rows for i in row.index} for each in ranked[call])
    assert len(one) == len(two) and not one & two
    if case.stop != "none":
        check_resumed(ranked[call], ranked[name, case._replace(stop="none")])


@needs_ranks
def test_steps_of_any_parts_are_equal(tmp_path: Path, ranked: Any) -> None:
    case = Case("rising")  # a random choice: the same samples however they are shared
    alone = [CASES["estimated steps"](tmp_path, case._replace(accumulate=parts)) for parts in (1, 4)]
    shared = [
        ranked["plan.loader", Case("rising", 2, workers=2)],
        ranked["estimated steps", Case("rising", 2, 2)],
    ]
    for found in (alone[1], shared[0][0], shared[1][0]):
        torch.testing.assert_close(found.parameters, alone[0].parameters, rtol=0, atol=1e-5)


@needs_ranks
def test_a_rank_that_is_killed_is_said_and_the_run_goes_on(launched: Any, ranked: Any) -> None:
    folder, codes, said = launched
    assert codes[1] == 9 and codes[0] not in (0, 9)
    assert "RuntimeError: " in said or "DistBackendError: " in said, said

    # Two ranks saved it inside an epoch, one process with two batches a step goes on
    plan = new_plan(Case("pods", accumulate=2))
    found = fitted(plan, checkpoint=folder / "3.ckpt")
    expected = reference(Case("pods", accumulate=2))
    assert found.steps == 12 and plan.progress == 1 and len(found.rows) == 18
    torch.testing.assert_close(found.parameters, expected.parameters, rtol=0, atol=1e-5)


def test_the_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # Lightning writes logs
    text = (ROOT / "docs" / "lightning.md").read_text()
    names: dict[str, Any] = {"__name__": "lightning_page"}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "docs/lightning.md", "exec"), names)
    assert names["plan"].progress == 1 and names["trainer"].global_step == 16
