"""Files are whole or as they were, and states come back bit for bit."""

import math
import os
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from dsenv import files
from dsenv.files import DamagedFileError, load_state, save_state, write
from dsenv.plain import TAG

pytestmark = pytest.mark.fast

NAN = struct.unpack("<d", bytes.fromhex("010000000000f87f"))[0]  # a NaN with a payload of its own
STATE = {
    "numbers": [0, -1, 2**53 + 1, -(2**200), 1.5, -0.0, 1e-320, math.inf, -math.inf, NAN],
    "plain": (None, True, False, "text \u20ac \"dsenv.sha256\":\"" + "0" * 64 + '"', ("a",), [], {}),
    7: {"tensor": torch.arange(6, dtype=torch.int64).reshape(2, 3).T, "empty": torch.zeros(0, 3)},
    "kinds": [torch.tensor(True), torch.tensor(1.5, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.uint8)],
    "unsigned": [np.full(2, 2**63 + 5, "u8"), np.full((2, 2), 2**31 + 3, "u4"), np.uint16(65535)],
    "arrays": [np.arange(3, dtype=">u4"), np.zeros((0, 2), bool), np.array(2.5, np.float16)],
    "scalars": [np.float32(0.1), np.uint64(2**64 - 1), np.float64(0.1)],
}  # fmt: skip


def same(a, b):
    """Equal types and equal bits, all the way down."""
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return type(b) is float and struct.pack("<d", a) == struct.pack("<d", b)
    return type(a) is type(b) and a == b


def test_a_state_comes_back_bit_for_bit_and_equal_content_is_an_equal_file(tmp_path):
    path = save_state(tmp_path / "state.safetensors", STATE)
    assert same(load_state(path), STATE)
    assert path.read_bytes() == save_state(tmp_path / "again.safetensors", STATE).read_bytes()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["again.safetensors", "state.safetensors"]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"a": [0, {1, 2}]}, r"state\.a\[1\] is of builtins.set"),
        ({"f": print}, r"state\.f is of builtins.builtin_function"),
        ({b"x": 0}, "a key of state is of builtins.bytes"),
        ([np.array([object()])], r"state\[0\] is an array of object"),
        ([np.array(["a"])], "array of <U1"),
        ([1j], "builtins.complex"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_place(value, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        save_state(tmp_path / "state.safetensors", value)
    assert not list(tmp_path.iterdir())


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path):
    path = save_state(tmp_path / "state.safetensors", {"a": torch.arange(3), "b": [1.5, "text"]})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedFileError):
            load_state(path)
    for length in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError):
            load_state(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedFileError):
        load_state(path)


def test_files_of_other_kinds_are_damaged_and_another_form_is_named(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    path = tmp_path / "state.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(DamagedFileError, match="without a checksum"):
        load_state(path)
    for version in (1, 3):
        monkeypatch.setattr(files, "VERSION", version)
        save_state(path, {})
        monkeypatch.undo()
        with pytest.raises(ValueError, match=f"has the form {version}, this version of dsenv reads 2"):
            load_state(path)
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "none")


@pytest.mark.parametrize(
    "inner",
    [
        {TAG: "tensor", "name": "9"},
        {TAG: "tensor"},
        {TAG: "unknown", "value": 1},
        {TAG: "array", "value": "0"},
        {TAG: "float", "value": "00"},
        {TAG: "int", "value": "x"},
        {TAG: "table", "pairs": [1]},
    ],
)
def test_a_doctored_state_with_a_right_checksum_is_refused(inner, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "encoded", lambda _: inner)
    path = save_state(tmp_path / "state.safetensors", 0)
    monkeypatch.undo()
    with pytest.raises(DamagedFileError):
        load_state(path)


def test_a_link_is_not_written_through(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "loose").symlink_to(tmp_path / "nowhere")
    for name in ("link", "loose"):
        with pytest.raises(OSError, match=f"{name} is a symbolic link to"):
            write(tmp_path / name, b"theirs")
    assert (tmp_path / "victim").read_text() == "mine" and not (tmp_path / "nowhere").exists()


def test_a_disk_that_is_full_leaves_the_file_of_before(tmp_path):
    """A limit on the size of files fails in the middle of a write, as a full disk does."""
    path = write(tmp_path / "file", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*file: .*; the file of before is"):
            write(path, b"new" * 1000)
        with pytest.raises(OSError, match="nothing was left behind"):
            write(tmp_path / "other", b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old" and [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_missing_or_read_only_folder_is_named(tmp_path, monkeypatch):
    with pytest.raises(OSError, match=r"cannot write .*none/file"):
        write(tmp_path / "none" / "file", b"")
    with pytest.raises(OSError, match=r"cannot write into .*none.*nothing was begun"):
        files.check_writable(tmp_path / "none")
    files.check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, sys
from pathlib import Path
from dsenv import files
calls = {"fsync": os.fsync, "replace": os.replace}
def die(*_): os._exit(9)
setattr(os, sys.argv[2], die)
files.write(Path(sys.argv[1]), b"new")
"""


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_process_that_dies_while_writing_leaves_the_old_file_and_what_can_be_removed(moment, tmp_path):
    path = write(tmp_path / "file", b"old")
    command = [sys.executable, "-c", KILLED, str(path), moment]
    assert subprocess.run(command, timeout=60, cwd=os.getcwd()).returncode == 9
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
    files.remove_partials(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_damaged_files_are_set_aside_side_by_side(tmp_path):
    for name in ("file.damaged", "file.damaged-2"):
        (tmp_path / "file").write_text(name)
        with pytest.warns(UserWarning, match=f"file is damaged and was set aside as {name}: cut"):
            files.set_aside(tmp_path / "file", "cut")
        assert (tmp_path / name).read_text() == name


def test_a_file_holds_no_type_that_an_old_safetensors_does_not_know(tmp_path):
    path = save_state(tmp_path / "state.safetensors", STATE)
    with safe_open(path, "pt") as held:
        kinds = {held.get_slice(name).get_dtype() for name in held.keys()}  # noqa: SIM118
    assert kinds and not kinds & {"U16", "U32", "U64"}
