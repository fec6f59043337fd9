"""Folders and image files as people have them: read rightly, or refused by name."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from dsenv.tasks.folder import image_folder
from dsenv.tasks.images import read_image

pytestmark = pytest.mark.fast

RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


def folder_of(path, classes=("cat", "dog"), number=4, value=100):
    for label, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for index in range(number):
            pixels = np.full((9, 9 + index, 3), value + 50 * label, np.uint8)
            Image.fromarray(pixels).save(path / name / f"{index}.png")
    return path


def read(path, **settings):
    return image_folder(str(path), **{"size": 8, "train": 4, "validation": 2, **settings})


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val"),
        ("train", "valid", "test"),
        ("Training", "Validation"),
        ("train_set", "val_set"),
        ("train2017", "test2017"),
    ],
)
def test_a_root_of_splits_is_refused_with_the_folder_to_pass(tmp_path, names):
    for name in names:
        folder_of(tmp_path / name)
    with pytest.raises(ValueError, match=f"not classes; pass the one.*{names[0]}"):
        read(tmp_path)
    assert read(tmp_path / names[0]).classes == 2


def test_one_split_with_classes_in_it_is_refused_and_a_class_called_train_is_not(tmp_path):
    folder_of(tmp_path / "vehicles", ("bus", "train"))
    assert read(tmp_path / "vehicles").classes == 2
    folder_of(tmp_path / "root" / "train")
    folder_of(tmp_path / "root", ("extra",))
    with pytest.raises(ValueError, match=r"holds the splits train, not classes"):
        read(tmp_path / "root")


def test_hidden_and_packed_files_and_folders_are_left_out(tmp_path):
    folder_of(tmp_path)
    for name in (".thumbnails", "__MACOSX", ".ipynb_checkpoints"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no image")
    (tmp_path / "cat" / "._0.png").write_bytes(b"no image")
    (tmp_path / "cat" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cat" / ".ipynb_checkpoints" / "0.png").write_bytes(b"no image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = read(tmp_path)
    assert data.classes == 2 and sum(map(len, data.splits().values())) == 8


def test_what_is_left_out_is_said(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    with pytest.warns(UserWarning, match=r"1 files are none of .*notes\.txt"):
        read(tmp_path)
    (tmp_path / "cat" / "notes.txt").unlink()
    (tmp_path / "loose.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1 files lie in no class's folder.*loose\.png"):
        read(tmp_path)


def test_an_empty_class_one_class_and_no_class_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no folder in it"):
        read(tmp_path)
    folder_of(tmp_path, ("cat",))
    with pytest.raises(ValueError, match="has one class, 'cat'"):
        read(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(FileNotFoundError, match=r"class folder .*dog has no image"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a file is at .*0\.png"):
        read(tmp_path / "cat" / "0.png")


def test_links_in_a_circle_end(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    assert sum(map(len, read(tmp_path).splits().values())) == 8


def saved(path, image, **settings):
    image.save(path, **settings)
    return np.asarray(read_image(path))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path, suffix):
    values = (RAMP.astype(np.uint16) * 257).astype(np.uint16)
    found = saved(tmp_path / f"x.{suffix}", Image.fromarray(values))
    assert np.array_equal(found, np.repeat(RAMP[..., None], 3, 2))


def test_sixteen_bit_colour_and_grey_maps_are_scaled(tmp_path):
    header = b"P5 8 8 65535\n"
    path = tmp_path / "x.pgm"
    path.write_bytes(header + (RAMP.astype(">u2") * 257).astype(">u2").tobytes())
    assert np.array_equal(np.asarray(read_image(path))[..., 0], RAMP)


def test_floats_are_scaled_from_0_to_1_and_others_are_refused_by_name(tmp_path):
    found = saved(tmp_path / "x.tif", Image.fromarray((RAMP / 255).astype(np.float32)))
    assert np.array_equal(found[..., 1], RAMP)
    for bad in (RAMP.astype(np.float32), np.full((8, 8), np.nan, np.float32), -RAMP.astype(np.float32)):
        with pytest.raises(ValueError, match=r"y\.tif cannot be read: its values are floats from .* 0 to 1"):
            saved(tmp_path / "y.tif", Image.fromarray(bad))
    with pytest.raises(ValueError, match="32-bit whole numbers, which have no known scale"):
        saved(tmp_path / "z.tif", Image.fromarray(RAMP.astype(np.int32)))


def test_one_bit_palette_alpha_and_cmyk(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (8, 4))
    assert np.array_equal(saved(tmp_path / "1.png", Image.fromarray(stripes).convert("1"))[..., 2], stripes)

    palette = Image.fromarray(stripes // 255).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    found = saved(tmp_path / "p.png", palette)
    assert found[0, 0].tolist() == [10, 20, 30] and found[0, 1].tolist() == [200, 100, 50]

    colours = np.stack([RAMP, 255 - RAMP, RAMP // 2, RAMP], 2)
    assert np.array_equal(saved(tmp_path / "a.png", Image.fromarray(colours)), colours[..., :3])
    assert np.array_equal(saved(tmp_path / "la.png", Image.fromarray(RAMP).convert("LA"))[..., 0], RAMP)
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert saved(tmp_path / "c.tif", red)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    folder_of(tmp_path)
    (tmp_path / "dog" / "bad.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"the image .*dog/bad\.png cannot be read: ."):
        read(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_file_is_named(tmp_path, suffix, share):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"x\.{suffix} cannot be read"):
        read_image(path)


def test_several_frames_and_strips_are_refused(tmp_path):
    one = Image.fromarray(RAMP)
    one.save(tmp_path / "x.tif", save_all=True, append_images=[one, one])
    with pytest.raises(ValueError, match=r"x\.tif has 3 frames"):
        read_image(tmp_path / "x.tif")
    Image.new("RGB", (2000, 2)).save(tmp_path / "y.png")
    with pytest.raises(ValueError, match=r"y\.png is 2000 x 2 pixels, too thin"):
        read_image(tmp_path / "y.png")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be a whole number from 1 to 4096, got 0"),
        ({"size": "8"}, "size must be a whole number"),
        ({"size": 10**9}, "size must be a whole number"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"channels": True}, "channels must be a whole number"),
        ({"train": "4"}, "whole number"),
        ({"train": 1.5}, "whole number"),
        ({"split_seed": -1}, "split_seed"),
        ({"split_seed": None}, "split_seed"),
        ({"train": 4, "validation": None}, "only one can be None"),
    ],
)
def test_wrong_settings_are_named(tmp_path, settings, message):
    folder_of(tmp_path)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **settings)


@pytest.mark.parametrize("root", ["", None, 5, "a\0b"])
def test_what_is_no_path_is_named(root):
    with pytest.raises(ValueError, match=r"dataset\.root must be the path of a folder"):
        image_folder(root, train=4)


def test_numpy_numbers_are_taken_and_images_may_differ_in_size(tmp_path):
    data = read(folder_of(tmp_path), size=np.int64(8), train=np.int64(4), split_seed=np.int32(1))
    assert data.sample_shape == (3, 8, 8)
    for split in data.splits().values():
        assert torch.equal(split.images[:, 0, 0, 0].long(), 100 + 50 * split.labels)
