"""Help, flag files and plans of the programs."""

import importlib.metadata
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from absl import flags

from experiments import command_line, infer

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = (
    "infer", "pretrain", "summarise", "figures", "check", "compare", "export", "simulate", "search",
    "weigh",
)  # fmt: skip


def python(code, *arguments, status=0):
    """Run code in a process of its own, with these arguments of the command line."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def test_every_program_is_a_console_script():
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options.entry_points"]["console_scripts"].strip().splitlines()
    scripts = [importlib.metadata.EntryPoint(*re.split(r"\s*=\s*", line), "x") for line in lines]
    assert {script.name for script in scripts} >= {f"npe-{name}" for name in PROGRAMS}
    for script in scripts:
        module, _, function = script.value.partition(":")
        assert f"def {function}() -> None" in (ROOT / f"{module.replace('.', '/')}.py").read_text()


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_help_needs_nothing_heavy_and_says_how_to_begin(name, asked):
    code = (
        "import sys, atexit\n"
        "heavy = ('tensorflow', 'keras', 'matplotlib', 'scipy', 'astropy', 'arviz', 'optuna')\n"
        "atexit.register(lambda: print('HEAVY', [m for m in heavy if m in sys.modules]))\n"
        f"from experiments.{name} import run\n"
        f"sys.argv[0] = 'npe-{name}'\n"
        "run()"
    )
    text = python(code, asked)
    assert "HEAVY []" in text
    assert f"npe-{name} --" in text
    assert "Example" in text and f"Flags of npe-{name}:" in text
    assert "[required]" in text or name in ("pretrain", "compare", "search")
    assert all(len(line) <= 100 for line in text.splitlines() if "flagfiles" not in line)


def test_what_asks_for_help():
    wants = command_line.wants_help
    assert wants(["x", "--output=y", "--help"]) and wants(["x", "-h"])
    assert not wants(["x", "-h", "0.7"]) and not wants(["x", "-h=0.7"])
    assert not wants(["x", "--", "--help"]) and not wants(["--help"])


def test_the_help_has_every_flag_once():
    text = command_line.help_text(infer, "npe-infer")
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if flags.FLAGS.find_module_defining_flag(name) in ("experiments.infer", "experiments.data",
                                                           "experiments.options"):  # fmt: skip
            times = len(re.findall(rf"^  --(?:\[no\])?{flag.name}\b", text, re.MULTILINE))
            assert times == 1, name
    assert "--mass_threshold=...    Smallest halo mass used [Msun/h]. [2e+12]" in text
    assert "\nOther:" not in text


def test_flag_files_of_the_package_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = str(command_line.FLAGFILES / "demo.flags")
    found = command_line.with_flagfiles
    assert found(["npe-infer", "--flagfile=demo.flags"])[1] == f"--flagfile={shipped}"
    assert found(["npe-infer", "--flagfile", "demo.flags"])[2] == shipped
    assert found(["npe-infer", "--flagfile=mine.flags"])[1] == "--flagfile=mine.flags"
    assert found(["x", "--", "--flagfile=demo.flags"])[2] == "--flagfile=demo.flags"
    (tmp_path / "demo.flags").touch()
    assert found(["npe-infer", "--flagfile=demo.flags"])[1] == "--flagfile=demo.flags"


@pytest.mark.parametrize("preset", sorted(p.name for p in command_line.FLAGFILES.glob("*.flags")))
@pytest.mark.parametrize("name", ["infer", "pretrain"])
def test_every_program_takes_every_preset(preset, name):
    code = (
        f"from experiments import command_line\nfrom experiments.{name} import FLAGS\nimport sys\n"
        "FLAGS(command_line.with_flagfiles(sys.argv))\n"
        "print(FLAGS.grid, getattr(FLAGS, 'scheme', None), getattr(FLAGS, 'preconditioned', None))"
    )
    said = python(code, f"--flagfile={preset}", "--output=x", "--grid=16").split()
    assert said[0] == "16"  # what follows the file overrules it
    if name == "infer" and preset == "paper.flags":
        assert said[1:] == ["gibbs", "False"]
