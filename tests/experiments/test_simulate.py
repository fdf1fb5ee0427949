"""npe-simulate as a user runs it: many command lines, in one process to spare its start."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from npe_tf.catalogue import Catalogue, read_fields
from tests.npe_tf.synthetic_run import write_run

ROOT = Path(__file__).resolve().parents[2]

# every command line as if it came first: flags have their defaults again
PROGRAM = """
import contextlib, io, json, sys
from absl import flags
from experiments import mock_files, options, simulate
done = []
make_mocks = mock_files.make_mocks
for line in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    mock_files.make_mocks = make_mocks
    if "INTERRUPTED" in line:
        line.remove("INTERRUPTED")
        def interrupted(paths, numbers, recipe, make, out):
            def stop(number, report):
                if number == 2:
                    raise KeyboardInterrupt
                return make(number, report)
            make_mocks(paths, numbers, recipe, stop, out)
        mock_files.make_mocks = interrupted
    sys.argv[:] = ["npe-simulate", *line]
    said, complained = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            options.run_main(simulate.main)
    except SystemExit as error:
        done.append([error.code or 0, said.getvalue(), complained.getvalue()])
json.dump(done, open(OUTPUT, "w"))
"""


def simulate(folder, lines):
    """Run command lines; returns status, output and complaints of each."""
    output = folder / "done.json"
    done = subprocess.run(
        [
            sys.executable, "-c", f"OUTPUT = {str(output)!r}\n{PROGRAM}",
            json.dumps([[str(word) for word in line] for line in lines]),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


MODEL = ["--mode=model", "--grid=8", "--box_size=60", "--prior_scale=0.5", "--Omega_m=0.3"]
NBODY = ["--mode=nbody", "--grid=8", "--num_particles=16", "--box_size=24", "--num_steps=3",
         "--min_particles=5", "--redshift=0.25"]  # fmt: skip


def test_mocks_are_made_kept_and_not_overwritten(tmp_path):
    folder, single, box = tmp_path / "mocks", tmp_path / "mock.h5", tmp_path / "new" / "box.h5"
    several = [*MODEL, f"--output={folder}"]
    plan, interrupted, rest, more, other, replaced, one, planned, taken = simulate(
        tmp_path,
        [
            [*several, "--num_mocks=3", "--dry_run"],
            [*several, "--num_mocks=3", "INTERRUPTED"],
            [*several, "--num_mocks=3"],
            [*several, "--num_mocks=4", "--verbosity=-1"],
            [*several, "--num_mocks=4", "--seed=5"],
            [*several, "--num_mocks=2", "--seed=5", "--overwrite"],
            [*MODEL, f"--output={single}"],
            [*NBODY, f"--output={box}", "--dry_run"],
            [*NBODY, f"--output={tmp_path}"],
        ],
    )
    assert plan[0] == 0 and plan[2] == ""
    for part in ("neural bias, parameters from the prior, of width 0.5", "8^3 cells of 7.5 Mpc/h",
                 "expected in the first mock", "memory: about", "disk: 3 files of",
                 "3 of 3 to be made", "nothing was written"):  # fmt: skip
        assert part in plan[1], part

    assert interrupted[0] == 130
    assert "1 of 3 mocks were written; the same command makes the rest" in interrupted[1]
    assert rest[0] == 0 and "1 of 3 mocks are there and kept" in rest[1]
    assert "2 of 2 mocks" in rest[1] and f"3 mocks in {folder}" in rest[1]
    assert more == [0, "", ""]
    assert other[0] == 2 and "seed: expected 5, received 0" in other[2]
    assert "--overwrite" in other[2] and other[2].count("\n") == 1
    assert replaced[0] == 0 and "2 of 2 mocks" in replaced[1]
    names = [f"mock_000{n}.h5" for n in (1, 2, 3, 4)]
    assert sorted(path.name for path in folder.iterdir()) == names
    found = {}
    for name in names:
        with h5py.File(folder / name) as file:
            found[name] = file["fields/white_noise"][:]
            assert json.loads(file.attrs["recipe"])["seed"] == (5 if name in names[:2] else 0)
        assert Catalogue.read(folder / name).header["Omega_m"] == 0.3
    # those that were kept are what a run without an interruption makes
    with h5py.File(single) as file:
        alone = file["fields/white_noise"][:]
    assert one[0] == 0 and f"in {single}" in one[1]
    assert all(not np.array_equal(alone, noise) for noise in found.values())

    assert planned[0] == 0
    for part in ("16^3 particles of", "3 steps to scale factor 0.8", "a force mesh of 32^3",
                 "from 5 particles", "haloes, by the fit of Sheth & Tormen", "GiB"):  # fmt: skip
        assert part in planned[1], part
    assert not box.parent.exists()
    assert taken[0] == 2 and "which is a folder" in taken[2]


@pytest.mark.slow
def test_the_model_of_a_run_and_of_fitted_parameters(tmp_path):
    write_run(tmp_path)
    run = ["--mode=model", f"--run={tmp_path}"]
    mock, fitted = tmp_path / "mock.h5", tmp_path / "fitted.h5"
    made, larger, mean, mesh, flag, redshift, both, from_mock = simulate(
        tmp_path,
        [
            [*run, f"--output={mock}"],
            [*run, f"--output={fitted}", "--grid=16"],
            [*run, f"--output={tmp_path / 'x.h5'}", "--parameters=mean"],
            [*run, f"--output={tmp_path / 'x.h5'}", "--grid=16", "--box_size=60"],
            [*run, f"--output={tmp_path / 'x.h5'}", "--mass_threshold=1e13"],
            [*run, f"--output={tmp_path / 'x.h5'}", "--redshift=1"],
            [*run, f"--output={tmp_path / 'x.h5'}", f"--pretrained={mock}"],
            ["--mode=model", f"--pretrained={mock}", f"--output={tmp_path / 'y.h5'}"],
        ],
    )
    assert made[0] == 0 and "12 posterior samples" in made[1]
    with h5py.File(tmp_path / "chain.h5") as file, h5py.File(mock) as drawn:
        theta = file["chain/theta"][4:].reshape(-1, 17)
        assert np.isclose(theta, drawn["theta"][:]).all(axis=1).any()
    # cells are as large as those of the run
    assert larger[0] == 0 and Catalogue.read(fitted).box_size == 120.0
    assert mean[0] == 2 and "psi rises" in mean[2]
    assert mesh[0] == 2 and "`box_size`. Expected 120" in mesh[2]
    assert flag[0] == 2 and "`mass_threshold`. Expected the mass_threshold=2" in flag[2]
    assert redshift[0] == 2 and "`scale_factor`" in redshift[2]
    assert both[0] == 2 and "--run or --pretrained" in both[2]
    # a mock states its parameters as npe-pretrain does
    assert from_mock[0] == 0
    with h5py.File(mock) as first, h5py.File(tmp_path / "y.h5") as second:
        np.testing.assert_array_equal(first["theta"][:], second["theta"][:])


BAD = {
    "`box_size`.*--box_size": ["--mode=nbody"],
    "`box_size`. Expected": ["--mode=model"],
    "`run`. Expected no such flag with --mode=nbody": [*NBODY, "--run=x"],
    "`gravity`. Expected no such flag": [*NBODY, "--gravity=pm"],
    "`num_steps`. Expected no such flag with --mode=model": [*MODEL, "--num_steps=3"],
    "`linking_length`. Expected a number between": [*NBODY, "--linking_length=2"],
    "`num_cells`. Expected an even integer": [*NBODY, "--grid=32"],
    "`redshift`. Expected that of --scale_factor=0.5": [*MODEL, "--redshift=2",
                                                         "--scale_factor=0.5"],
    "`parameters`. Expected --run": [*MODEL, "--parameters=mean"],
    "no parameters at 'nowhere'": ["--mode=model", "--pretrained=nowhere"],
    "nowhere": ["--mode=model", "--run=nowhere"],
    "npe-pretrain": ["--mode=model", f"--pretrained={ROOT / 'setup.cfg'}"],
    "is no mock": [*MODEL],
}  # fmt: skip


def test_what_is_wrong_is_one_line(tmp_path):
    taken = tmp_path / "taken.h5"
    taken.write_text("something else")
    lines = [
        [*line, f"--output={taken if 'no mock' in complaint else tmp_path / 'x' / 'y.h5'}"]
        for complaint, line in BAD.items()
    ]
    for complaint, (status, said, complained) in zip(BAD, simulate(tmp_path, lines), strict=True):
        assert status == 2, (complaint, said)
        assert complained.startswith("error: ") and complained.count("\n") == 1
        assert re.search(complaint, complained), complained
    assert taken.read_text() == "something else"


@pytest.mark.slow
def test_a_box_is_simulated_once(tmp_path):
    box = tmp_path / "new" / "box.h5"
    first, again = simulate(tmp_path, 2 * [[*NBODY, f"--output={box}"]])
    assert first[0] == 0 and "Catalogue(" in first[1] and first[2] == ""
    assert "1 of 1 mocks are there and kept" in again[1]
    read = Catalogue.read(box)
    assert read.header["scale_factor"] == pytest.approx(0.8)
    assert read_fields(box)["delta_final"].shape == (8, 8, 8)


@pytest.mark.slow
def test_a_simulated_box_trains_and_its_model_makes_mocks(tmp_path):
    def run(program, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{program}", *map(str, arguments)],
            cwd=ROOT, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    box, fitted, mock = (tmp_path / name for name in ("box.h5", "fitted.h5", "mock.h5"))
    run("simulate", "--mode=nbody", "--grid=8", "--num_particles=32", "--box_size=60",
        "--num_steps=10", f"--output={box}")  # fmt: skip
    few = ["--num_starts=1", "--num_steps=50", "--num_polish=50", "--mass_threshold=1.15e13"]
    run("pretrain", f"--catalogue={box}", "--grid=8", f"--output={fitted}", *few)
    run("simulate", "--mode=model", f"--pretrained={fitted}", f"--output={mock}", "--seed=3")
    numbers = [len(Catalogue.read(path)) for path in (box, mock)]
    # the bias model expects as many haloes as it has seen, up to what fields and counts differ by
    assert 0.3 < numbers[1] / numbers[0] < 3.0
    said = run(
        "infer", f"--catalogue={mock}", f"--pretrained={mock}", "--grid=8",
        "--mass_threshold=1.15e13", "--scheme=gibbs", "--num_warmup=2", "--num_samples=4",
        "--num_processes=1", "--field_leapfrog_steps=2", f"--output={tmp_path / 'run'}",
    )  # fmt: skip
    assert f"{numbers[1]} of {numbers[1]} haloes" in said
