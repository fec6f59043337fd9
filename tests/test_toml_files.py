"""Whatever stands in a TOML file: it is read, or refused with the file's name."""

from pathlib import Path

import pytest

import dsenv
from dsenv.catalogue import definition
from dsenv.toml_files import DEEPEST, MOST_BYTES, read_toml

pytestmark = pytest.mark.fast

ENTRY = b'entry_point = "dsenv.agents.rules:NeutralRule"\n'
BAD = {
    "empty": (b"", "has no entry_point"),
    "comment": (b"# nothing\n", "has no entry_point"),
    "no value": (b"entry_point = ", "not valid TOML"),
    "no key": (b"[kwargs]\nx = 1\n", "has no entry_point"),
    "latin-1": (b'# caf\xe9\nentry_point = "a:b"\n', "is not UTF-8: byte 5 is 0xe9"),
    "utf-16": ('entry_point = "a:b"'.encode("utf-16"), "is not UTF-8"),
    "binary": (bytes(range(256)), "not valid TOML|not UTF-8"),
    "zeros": (bytes(50), "not valid TOML"),
    "deep lists": (b"kwargs = " + b"[" * 5000 + b"]" * 5000, "more than 64 deep"),
    "open lists": (b"kwargs = " + b"[" * 5000, "more than 64 deep|not valid TOML"),
    "deep tables": (b"kwargs = " + b"{a = " * 5000 + b"1" + b"}" * 5000, "more than 64 deep"),
    "deep keys": (ENTRY + b"[kwargs]\n" + b".".join([b"a"] * 5000) + b" = 1\n", "more than 64 deep"),
    "deep header": (ENTRY + b"[kwargs." + b".".join([b"a"] * 100) + b"]\n", "more than 64 deep"),
    "number": (b"entry_point = 5\n", "has no entry_point.*got 5"),
    "list": (b'entry_point = ["a:b"]\n', "has no entry_point.*got"),
    "table": (b"[entry_point]\nx = 1\n", "has no entry_point.*got"),
    "kwargs text": (ENTRY + b'kwargs = "x"\n', "kwargs must be a table of settings"),
    "kwargs list": (ENTRY + b"kwargs = [1]\n", "kwargs must be a table of settings"),
    "kwargs tables": (ENTRY + b"[[kwargs]]\nx = 1\n", "kwargs must be a table of settings"),
    "other key": (ENTRY + b"kwarg = {}\n", "Did you mean 'kwargs'"),
    "twice": (ENTRY + ENTRY, "not valid TOML"),
    "long number": (ENTRY + b"[kwargs]\nx = " + b"9" * 5000 + b"\n", "not valid TOML"),
    "large": (ENTRY + b"#" * (MOST_BYTES + 1), "has more than 1,048,576 bytes"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("kind", ["envs", "agents"])
def test_a_file_that_is_no_definition_is_refused_with_its_name(kind, content, message, tmp_path):
    path = tmp_path / "some-file.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s)some-file.toml.*({message})"):
        dsenv.load(kind, str(path))


def test_a_folder_and_no_file_are_named(tmp_path):
    (tmp_path / "x.toml").mkdir()
    with pytest.raises(ValueError, match=r"x\.toml is a folder"):
        definition("envs", str(tmp_path / "x.toml"))
    with pytest.raises(FileNotFoundError, match=r"no definition at .*none\.toml"):
        definition("envs", tmp_path / "none.toml")
    with pytest.raises(FileNotFoundError, match=r"no TOML file at .*none\.toml"):
        read_toml(tmp_path / "none.toml")


@pytest.mark.parametrize("name", [None, 5, b"x.toml", ["x.toml"], True])
def test_what_is_no_name_is_named(name):
    with pytest.raises(ValueError, match="expected a name or the path of a TOML file"):
        dsenv.load("envs", name)


def test_paths_byte_order_marks_and_windows_lines_are_taken(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + ENTRY.replace(b"\n", b"\r\n") + b"[kwargs]\r\nenv = {}\r\n")
    assert dsenv.load("agents", path).learns is False
    assert dsenv.load("agents", Path(path)).learns is False


def test_what_is_deep_enough_is_read(tmp_path):
    path, depth = tmp_path / "x.toml", DEEPEST - 1
    path.write_text(f"x = {'[' * depth}{']' * depth}\n")
    read_toml(path)
    path.write_text(f"x = {'[' * (depth + 1)}{']' * (depth + 1)}\n")
    with pytest.raises(ValueError, match="more than 64 deep"):
        read_toml(path)
