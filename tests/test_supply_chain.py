"""What is installed, and what is made to be installed elsewhere."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests import supply_chain
from tests.supply_chain import LICENCES, LOCKED, LOWEST, ROOT


def pinned(path):
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    requirements = [Requirement(line) for line in lines]
    return {each.name: Version(next(iter(each.specifier)).version) for each in requirements}


def test_lower_bounds_are_those_of_the_package():
    assert LOWEST.read_text() == supply_chain.lowest()


def test_the_locked_environment_is_allowed_and_above_the_lower_bounds():
    locked = pinned(LOCKED)
    for requirement in supply_chain.tested():
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(locked[name]), requirement
    for name, bound in pinned(LOWEST).items():
        assert locked[name] >= bound


def test_every_locked_package_has_a_licence_that_is_known():
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.*?) \| (.*?) \|$", LICENCES.read_text(), re.M)[1:]
    assert {name: Version(version) for name, version, *_ in rows if name != "---"} == pinned(LOCKED)
    assert not [name for name, _, licence, _ in rows if licence == "not stated"]


def test_nothing_is_unpickled_or_evaluated():
    """In the sources; pickles pass between the processes of one run alone."""
    forbidden = re.compile(
        r"allow_pickle=True|\bpickle\.load|\beval\(|\bexec\(|yaml\.load|marshal|shelve|joblib"
        r"|safe_mode=False|enable_unsafe_deserialization|saved_model\.load\("
    )
    found = [
        (path.relative_to(ROOT).as_posix(), line.strip())
        for package in ("npe_tf", "layers", "samplers", "experiments")
        for path in (ROOT / package).rglob("*.py")
        for line in path.read_text().splitlines()
        if forbidden.search(line)
    ]
    assert found == [("npe_tf/workers.py", "pickle.loads(pickle.dumps(error))")]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and a source archive, made from a copy."""
    folder = tmp_path_factory.mktemp("built")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    for name in filter(None, names):
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "tree" / name)
    build = (
        "from setuptools import build_meta as b; import sys;"
        "folder = sys.argv[1]; b.build_sdist(folder); b.build_wheel(folder)"
    )
    subprocess.run(
        [sys.executable, "-c", build, str(folder)],
        cwd=folder / "tree",
        check=True,
        capture_output=True,
    )
    return folder


@pytest.mark.slow
def test_wheel_and_sdist_hold_all_of_the_package(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in ("npe_tf", "layers", "samplers", "experiments")
        for pattern in ("*.py", "*.h5", "py.typed", "*.flags")
        for path in (ROOT / package).rglob(pattern)
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert wanted <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "npe_tf", "layers", "samplers", "experiments",
    }  # fmt: skip
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert wanted | {"LICENSE", "README.md", "setup.cfg", "constraints/locked.txt"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_runs_from_a_clean_environment(built, tmp_path, kind):
    """Dependencies are those of this environment; the package is not."""
    (archive,) = built.glob(kind)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    # a path in a .pth file brings no .pth files of its own, so no editable installation
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [
            python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
            "--no-index", "--ignore-installed", archive,
        ],
        check=True,
    )  # fmt: skip
    script = (
        "import npe_tf, layers, samplers, experiments;"
        "from npe_tf import load_nbody_box;"
        "print(npe_tf.__file__, len(load_nbody_box().catalogue))"
    )
    done = subprocess.run(
        [python, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    where, count = done.stdout.split()[-2:]
    assert where.startswith(str(site)) and int(count) > 1000
    programs = {path.name for path in (tmp_path / "venv/bin").glob("npe-*")}
    assert {"npe-infer", "npe-summarise", "npe-check"} <= programs
    helped = subprocess.run(
        [tmp_path / "venv/bin/npe-infer", "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "--catalogue" in helped.stdout
