"""npe-search as a user runs it, on a small mock catalogue."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from npe_tf.cosmology import Cosmology
from npe_tf.gravity.lpt import LPT
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from tests.experiments.test_binaries import ROOT, run
from tests.npe_tf.mock import draw_catalogue

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """A mock catalogue with its density, and a search of one network on two octants."""
    folder = tmp_path_factory.mktemp("search")
    mock, white_noise, _ = draw_catalogue()
    initial = InitialField(Grid(8, mock.box_size), Cosmology())
    delta = LPT(initial.grid, Cosmology())(initial.modes(white_noise)).numpy()
    fields = {"delta_linear": initial(white_noise).numpy(), "delta_final": delta}
    mock.write_hdf5(folder / "halos.h5", fields=fields)
    (folder / "first.json").write_text('[{"num_components": 1}]')
    return [
        f"--catalogue={folder / 'halos.h5'}", "--grid=8", "--buffer=1", "--octants=0,1",
        "--trials=1", f"--architectures={folder / 'first.json'}", "--num_steps=0",
        "--num_polish=5", "--num_starts=1",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on(arguments, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    printed, complained = run("search", *arguments, f"--output={whole}")
    assert complained == ""
    assert (whole / "search.md").read_text() in printed
    numbers = json.loads((whole / "search.json").read_text())
    reference, network = numbers["networks"]
    assert reference["state"] == "reference" and reference["num_parameters"] == 17
    assert network["architecture"]["num_components"] == 1
    assert len(network["log_likelihood"]) == 2
    gains = np.subtract(network["log_likelihood"], reference["log_likelihood"])
    np.testing.assert_allclose(network["gain"], gains.mean())
    np.testing.assert_allclose(network["gain_standard_error"], np.abs(np.diff(gains))[0] / 2.0)

    command = [sys.executable, "-m", "experiments.search", *arguments, f"--output={cut}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "part 0" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    printed, _ = run("search", *arguments, f"--output={cut}")
    assert "part 0: " not in printed.partition("part 1: ")[0]
    again = json.loads((cut / "search.json").read_text())
    for row, other in zip(numbers["networks"], again["networks"], strict=True):
        np.testing.assert_allclose(row["log_likelihood"], other["log_likelihood"], rtol=1e-9)
    # the same command with another option of the fits is another search
    _, complained = run("search", *arguments, f"--output={cut}", "--num_polish=6", status=2)
    assert "argument `settings`" in complained and "num_polish" in complained


BAD = {
    "--octants=0": "octants",
    "--octants=0,8": "octants",
    "--octants=0,0": "octants",
    "--confirm_octants=1,2": "octants",
    "--confirm_octants=5": "confirm_octants",
    "--padding=valid": "padding",
    "--bias=neyrinck": "padding",
    "--num_components=3": "num_components",
    "--kernel_sizes=4": "kernel_size",
    "--layers=one": "layers",
    "--orders=12": "orders",
    "--components=0": "num_components",
    "--heads=normal": "heads",
    "--softenings=wet": "softenings",
    "--architectures=nowhere.json": "nowhere.json",
    "--components=2": "architectures",
}


def test_bad_flags_are_named(arguments, tmp_path):
    """All in one process: programs define flags of the same names, and TensorFlow starts slowly."""
    code = (
        "import json, sys\n"
        "from absl.testing import flagsaver\n"
        "from experiments import search\n"
        "arguments, bad = json.loads(sys.argv[1])\n"
        "for flag in bad:\n"
        "    with flagsaver.flagsaver():\n"
        "        search.FLAGS(['npe-search', *arguments, flag])\n"
        "        try:\n"
        "            search.main()\n"
        "            print(json.dumps([flag, 'nothing']))\n"
        "        except (ValueError, OSError) as error:\n"
        "            print(json.dumps([flag, str(error)]))\n"
    )
    given = json.dumps([[*arguments, f"--output={tmp_path / 'none'}"], list(BAD)])
    done = subprocess.run(
        [sys.executable, "-c", code, given], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = dict(json.loads(line) for line in done.stdout.splitlines())
    assert list(said) == list(BAD)
    for flag, named in BAD.items():
        assert named in said[flag], (flag, said[flag])
        assert named.endswith(".json") or f"argument `{named}`" in said[flag]
    # none of them got as far as a folder
    assert not (tmp_path / "none").exists()
