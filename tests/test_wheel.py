"""The wheel holds the package with its policies, both catalogues and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "-nw", "-o", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_package_and_the_catalogues(wheel):
    held = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in held if ".dist-info" not in name}
    assert tops == {"dsenv"}
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "dsenv").rglob("*.py")} | {"dsenv/py.typed"}
    sources |= {str(p.relative_to(ROOT)) for p in (ROOT / "dsenv/_policies").iterdir()}
    sources |= {f"dsenv/evaluation/page/page.{ending}" for ending in ("html", "css", "js")}
    assert "dsenv/_policies/curriculum.toml" in sources
    shipped = {
        f"dsenv/_catalogue/{kind}/{p.name}"
        for kind in ("envs", "agents")
        for p in (ROOT / kind).glob("*.toml")
    }
    assert {name for name in held if ".dist-info" not in name} == sources | shipped


def test_the_wheel_works_from_another_place_and_its_policies_need_no_sb3(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    probe = "import sys, dsenv; print(dsenv.__file__)\n"
    probe += "import dsenv.policy; assert 'stable_baselines3' not in sys.modules\n"
    probe += "assert not dsenv.load('agents', 'random').learns\n"  # reads both catalogues and a policy
    probe += "assert dsenv.catalogue.definition('envs', 'Tiny-Curriculum-v0').kwargs['intervals'] == 4\n"
    probe += "assert dsenv.pretrained('curriculum').card.control['name'] == 'curriculum'"
    done = subprocess.run(
        [sys.executable, "-P", "-c", probe],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
