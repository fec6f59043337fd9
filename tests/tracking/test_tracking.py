"""Series that say nothing, pictures made of arrays, layouts and names."""

import io
import re

import numpy as np
import pytest
from matplotlib import colormaps

from dsenv.tracking import Changing, names, pictures
from dsenv.tracking.layout import EVALUATION, evaluation_layout, plan_layout, training_layout

pytestmark = pytest.mark.fast


def test_a_series_is_withheld_until_it_changes():
    changing = Changing()
    assert changing.points("a", 0, 0.5) == changing.points("a", 10, 0.5 + 1e-9) == []
    assert changing.points("b", 10, 0.1) == []
    assert changing.points("a", 20, 0.6) == [(0, 0.5), (10, 0.5), (20, 0.6)]
    assert changing.points("a", 30, 0.6) == [(30, 0.6)]
    assert changing.points("b", 20, 0.2) == [(10, 0.1), (20, 0.2)]


def test_a_constant_that_is_not_the_normal_one_is_written():
    changing = Changing()
    assert changing.points("a", 0, 0.0, normal=0.0) == changing.points("a", 1, 0.0, normal=0.0) == []
    assert changing.points("a", 2, 1.0, normal=0.0) == [(0, 0.0), (1, 0.0), (2, 1.0)]
    assert changing.points("b", 0, 1.0, normal=0.0) == [(0, 1.0)]
    assert changing.points("b", 1, 1.0, normal=0.0) == [(1, 1.0)]


def test_nan_is_one_value():
    changing = Changing()
    assert changing.points("a", 0, float("nan")) == changing.points("a", 1, float("nan")) == []
    assert [step for step, _ in changing.points("a", 2, 1.0)] == [0, 1, 2]


def test_what_was_withheld_travels():
    one, other = Changing(), Changing()
    one.points("a", 0, 0.5)
    one.points("b", 0, 1.0)
    one.points("b", 1, 2.0)
    other.load_state_dict(one.state_dict())
    assert other.points("a", 5, 0.7) == [(0, 0.5), (5, 0.7)] and other.points("b", 5, 2.0) == [(5, 2.0)]


def test_names_hold_no_sign_that_a_logger_or_a_pattern_minds():
    found = [value for name, value in vars(names).items() if name.isupper()]
    found += [names.loss_bin(4), names.pool("losses", names.interval(3, 12)), names.action("ratio", "now")]
    found += [names.feature("loss_mean")]
    for name in found:
        assert re.fullmatch(r"[\w\-. :/]+", name) and re.fullmatch(name, name)
    assert names.interval(3, 12) == "in interval 03 of 12"


def colours(picture):
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def test_bins_over_time_are_areas_of_their_share():
    shares = np.array([[0.75, 0.25, 0.0]] * 5, np.float32)
    picture = pictures.bins_picture([0, 64, 128, 192, 256], shares, "steps")
    small, large = (
        (np.array(c[:3]) * 255).round() for c in (colormaps["viridis"](0.0), colormaps["viridis"](0.475))
    )
    count = [(np.abs(picture.astype(int) - colour).max(2) <= 1).sum() for colour in (small, large)]
    assert count[0] / count[1] == pytest.approx(3, rel=0.1)
    assert pictures.bins_picture([7], shares[:1], "steps", shares).shape[1] > picture.shape[1]


def test_a_sheet_shows_both_kinds_and_marks_wrong_labels():
    images = np.full((3, 8, 8, 3), 7, np.uint8)
    wrong, right = np.array([True, False, False]), np.zeros(3, bool)
    both = pictures.sheet(images, images, wrong, right)
    assert {pictures.WRONG, pictures.RIGHT, (7, 7, 7)} <= colours(both)
    assert pictures.WRONG not in colours(pictures.sheet(images, images, right, right))
    assert pictures.sheet(images, images[:0], right, right[:0]).shape[0] < both.shape[0]


@pytest.mark.parametrize(
    "shape", [(5, 1, 8, 8), (5, 2, 8, 8), (5, 3, 300, 200), (5, 4, 9, 9), (40, 3, 16, 16)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_images_of_any_form_become_pixels(shape, dtype):
    values = np.random.default_rng(0).random(shape) * (255 if dtype is np.uint8 else 6) - (
        dtype is not np.uint8
    )
    found = pictures.as_pixels(values.astype(dtype))
    assert found.dtype == np.uint8 and found.shape == (shape[0], *shape[2:], 3)
    few = found[: pictures.MOST_IMAGES]
    flags = np.zeros(len(few), bool)
    assert max(pictures.sheet(few, few, flags, flags).shape) < 1000


@pytest.mark.parametrize("values", [np.zeros((5, 8)), np.zeros((0, 1, 8, 8)), np.zeros((5, 1, 1, 8))])
def test_what_is_no_image_has_no_pixels(values):
    assert pictures.as_pixels(values) is None


def test_values_that_are_not_finite_do_not_blind_the_rest():
    values = np.array([np.nan, 0.0, 1.0, 0.5] * 4, np.float32).reshape(1, 1, 4, 4)
    assert pictures.as_pixels(values)[0, 0, 2].tolist() == [255] * 3


def test_layouts_are_what_summary_writers_take(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    charts = [("a", "2 x/a", "6 x/a", "7 x/a"), ("b", "2 x/b", "6 x/b", "7 x/b")]
    with SummaryWriter(str(tmp_path)) as writer:
        for layout in (training_layout([EVALUATION]), plan_layout(5), evaluation_layout(charts)):
            writer.add_custom_scalars(layout)
    assert list(training_layout([EVALUATION])) == [EVALUATION, "Training of the agent"]
    assert io.BytesIO(next(tmp_path.iterdir()).read_bytes()).getbuffer().nbytes > 200
