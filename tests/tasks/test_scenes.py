"""Scenes for segmentation: each pixel's class is exact, and no split shares what its scenes are made of."""

import numpy as np
import pytest
import torch

from dsenv.catalogue import build_part
from dsenv.tasks import generated_scenes as made
from dsenv.tasks.generated_scenes import class_colours, generated_scenes
from dsenv.tasks.scenes import COARSE, TOPICS, scenes
from dsenv.tasks.task import DATASETS
from tests.stamps import stamp_colour, write_stamps

SIZES = {"train": 60, "validation": 20, "test": 40}


@pytest.fixture(scope="module")
def stamps(tmp_path_factory):
    return str(write_stamps(tmp_path_factory.mktemp("stamps")))


def stamp_scenes(root, **settings):
    return scenes(**{**SIZES, "side": 32, "photographs": "scikit-learn", "root": root, **settings})


def by_colour(split):
    """Class of each pixel (N, H, W) and number of its stamp, -1 for background, read off the colours."""
    red, green, blue = split.images.int().unbind(1)
    found, number = torch.zeros_like(red, dtype=torch.int64), torch.full_like(red, -1)
    for topic in range(len(TOPICS)):
        for stamp in range(4):
            wanted = stamp_colour(topic, stamp)
            here = ((torch.stack([red, green, blue], -1) - torch.tensor(wanted)).abs() <= 4).all(
                -1
            )  # rounding at half alpha
            found[here], number[here] = topic + 1, stamp
    return found, number


def test_each_pixel_of_a_scene_has_the_class_of_the_stamp_it_shows(stamps):
    data = stamp_scenes(stamps)
    assert data.sample_shape == (3, 32, 32) and data.train.images.dtype == torch.uint8
    for split in data.splits().values():
        found, _ = by_colour(split)
        assert torch.equal(found, split.labels)
        assert bool((split.labels.flatten(1) > 0).any(1).all())
    assert set(data.train.labels.unique().tolist()) == set(range(len(TOPICS) + 1))


def test_no_stamp_is_in_two_splits_and_none_is_a_cartoon_a_copy_or_a_square(stamps):
    data = stamp_scenes(stamps, train=150, validation=80, test=150, side=16)
    seen = []
    for split in data.splits().values():
        topics, number = by_colour(split)
        pairs = set(zip(topics[number >= 0].tolist(), number[number >= 0].tolist(), strict=True))
        seen.append(pairs)
        assert not (
            (split.images[:, 0] == 255) & (split.images[:, 1] == 0) & (split.images[:, 2] == 255)
        ).any()
    assert sum(len(pairs) for pairs in seen) == len(set.union(*seen)) == 4 * len(TOPICS)


def test_no_pixel_of_a_photograph_is_in_two_splits(stamps, monkeypatch):
    """A photograph whose red value tells the column: the columns of two splits differ."""
    from PIL import Image

    columns = np.broadcast_to(np.arange(250, dtype=np.uint8)[None, :, None], (100, 250, 3)).copy()
    columns[..., 1:] = 0
    monkeypatch.setattr("dsenv.tasks.scenes._photographs", lambda _: [Image.fromarray(columns)])
    monkeypatch.setattr("dsenv.tasks.scenes.GAIN", (1.0, 1.0))
    ranges = []
    for split in stamp_scenes(stamps).splits().values():
        red = split.images[:, 0][split.labels == 0]
        ranges.append((int(red.min()), int(red.max())))
    (_, first_end), (second, second_end), (third, _) = ranges
    assert first_end < second and second_end < third


def test_coarse_classes_are_unions_of_topics(stamps):
    fine, coarse = stamp_scenes(stamps), stamp_scenes(stamps, coarse=True)
    assert torch.equal(fine.test.images, coarse.test.images)
    wanted = torch.tensor([0, *(COARSE[topic] for topic in TOPICS)])
    assert torch.equal(coarse.test.labels, wanted[fine.test.labels])
    assert (fine.kind.outputs, coarse.kind.outputs) == (9, 6)


def test_one_seed_gives_one_set_of_scenes(stamps):
    one, again, other = (stamp_scenes(stamps, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.train.images, again.train.images)
    assert torch.equal(one.test.labels, again.test.labels)
    assert not torch.equal(one.train.images, other.train.images)


def test_missing_stamps_are_an_error_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("DSENV_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get download tuxpaint-stamps-default"):
        scenes(root=str(tmp_path))
    monkeypatch.setattr("dsenv.tasks.scenes.DEBIAN_FOLDER", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"tuxpaint/stamps.*none.*apt-get install"):
        scenes()


def test_missing_scikit_image_is_an_error_with_the_command(stamps, monkeypatch):
    monkeypatch.setattr("dsenv.tasks.scenes.find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install \"dsenv-rl\[scenes\]\".*scikit-learn"):
        scenes(root=stamps)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 15}, "scenes: side must be a whole number from 16 to 256, got 15"),
        ({"photographs": "mine"}, "no scenes: photographs called 'mine'"),
        ({"train": 0}, "scenes: train must be a whole number from 1"),
        ({"seed": -1}, "scenes: seed must be a whole number"),
        ({"root": 3}, "dataset.root must be the path of a folder, got 3"),
    ],
)
def test_impossible_settings_of_scenes_are_named(stamps, settings, message):
    with pytest.raises(ValueError, match=message):
        stamp_scenes(**{"root": stamps, **settings})


def test_too_few_stamps_of_a_class_are_named(tmp_path):
    folder = write_stamps(tmp_path, each=2)
    with pytest.raises(ValueError, match="has 2 usable stamps for the class 'bird', expected at least 3"):
        stamp_scenes(str(folder))


def test_scenes_of_the_package_and_all_photographs():
    pytest.importorskip("skimage", reason="needs scikit-image: pip install 'dsenv-rl[scenes]'")
    try:
        data = scenes(**SIZES)
    except FileNotFoundError as error:
        pytest.skip(f"needs Debian's package tuxpaint-stamps-default: {error}")
    assert data.sample_shape == (3, 64, 64)
    assert 0.05 < float((data.test.labels > 0).float().mean()) < 0.5


@pytest.mark.parametrize("classes", [1, 8])
def test_each_pixel_of_a_made_up_scene_has_the_class_of_its_colour(classes, monkeypatch):
    """Without noise and shade a pixel is grey or has exactly one of the colours."""
    monkeypatch.setattr(made, "NOISE", 0.0)
    monkeypatch.setattr(made, "SHADE", 0.0)
    data = build_part(
        "dataset", DATASETS, {"name": "generated_scenes", "classes": classes, "side": 24, **SIZES}
    )
    colours = torch.from_numpy((class_colours(classes) * 255).round()).int()
    for split in data.splits().values():
        pixels = split.images.int().permute(0, 2, 3, 1)
        is_grey = (pixels == pixels[..., :1]).all(-1)
        found = (pixels[..., None, :] == colours).all(-1)
        assert torch.equal(found.any(-1), ~is_grey)
        assert torch.equal(torch.where(is_grey, 0, found.int().argmax(-1) + 1), split.labels)


def test_made_up_scenes_follow_from_their_seed_and_separation_changes_the_noise_alone():
    one, again, other = (generated_scenes(seed=seed, **SIZES) for seed in (1, 1, 2))
    assert torch.equal(one.train.images, again.train.images)
    assert not torch.equal(one.train.images, other.train.images)
    clear = generated_scenes(seed=1, separation=50.0, **SIZES)
    assert torch.equal(clear.train.labels, one.train.labels)
    apart = (clear.train.images.float() - one.train.images.float()).std() / 255
    assert float(apart) == pytest.approx(made.NOISE, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 9}, "generated_scenes: classes must be a whole number from 1 to 8, got 9"),
        ({"separation": 0}, "generated_scenes: separation must be a number above 0"),
        ({"side": 7}, "generated_scenes: side must be a whole number from 8 to 128, got 7"),
    ],
)
def test_impossible_settings_of_made_up_scenes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        generated_scenes(**settings)
