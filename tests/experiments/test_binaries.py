"""The binaries as a user runs them, in processes of their own."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from experiments import options
from npe_tf.catalogue import Catalogue
from npe_tf.cosmology import Cosmology
from npe_tf.gadget import read_initial_conditions
from npe_tf.gravity.lpt import LPT
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from tests.npe_tf.mock import draw_catalogue

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--scheme=gibbs", "--grid=8", "--num_warmup=4", "--num_samples=4", "--num_processes=1",
    "--field_leapfrog_steps=2", "--field_every=2",
]  # fmt: skip


def run(binary, *arguments, status=0):
    """Run a binary; returns what it printed and what it complained."""
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{binary}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("binaries")


@pytest.fixture(scope="module")
def catalogue(folder):
    """A mock catalogue with its true fields."""
    path = folder / "halos.h5"
    mock, white_noise, _ = draw_catalogue()
    grid = Grid(8, mock.box_size)
    initial = InitialField(grid, Cosmology())
    delta = LPT(grid, Cosmology())(initial.modes(white_noise)).numpy()
    fields = {"delta_linear": initial(white_noise).numpy(), "delta_final": delta}
    mock.write_hdf5(path, fields=fields)
    return path


def test_pretrain_infer_summarise(folder, catalogue):
    fitted, output = folder / "pretrained.h5", folder / "run"
    printed, _ = run(
        "pretrain", f"--catalogue={catalogue}", "--grid=8", "--num_starts=1", "--num_steps=50",
        "--num_polish=50", f"--output={fitted}",
    )  # fmt: skip
    assert "start 1: log L = " in printed
    assert "best log L" in printed

    arguments = [f"--catalogue={catalogue}", f"--pretrained={fitted}", f"--output={output}", *SMALL]
    printed, complained = run("infer", *arguments)
    assert "haloes, above 2e+12 Msun/h, on 8^3 cells of 7.5 Mpc/h; 17 parameters" in printed
    assert "sampling 8/8" in printed
    assert complained == ""
    with h5py.File(output / "chain.h5") as file:
        assert file["committed"][()] == 8
        assert file["constants/true_delta_linear"].shape == (8, 8, 8)
    printed, _ = run("infer", *arguments)
    assert "going on after sweep 8 of 8" in printed
    _, complained = run("infer", *arguments, "--energy_error=1e-6", status=2)
    assert "--scheme=gibbs" in complained
    assert "--energy_error" in complained
    other = [f"--catalogue={catalogue}", f"--output={output}", *SMALL, "--seed=7",
             "--component_family=tapered_pareto"]  # fmt: skip
    _, complained = run("infer", *other, status=2)
    assert "different run" in complained
    assert "seed: expected 7, received 0" in complained
    assert "component_family: expected 'tapered_pareto', received 'normal'" in complained

    netcdf = folder / "run.nc"
    printed, complained = run("summarise", f"--run={output}", f"--netcdf={netcdf}")
    for part in (
        "kernel_weights[0, 0, 0]", "ESS", "R-hat", "acceptance: field", "NOT CONVERGED",
        "haloes: ", "correlation of the posterior mean", "in 68%", "12 figures", "core-hours",
        "kWh",
        "voxels: ", "mass function: ", f"chains in {netcdf}",
    ):  # fmt: skip
        assert part in printed
    with h5py.File(netcdf) as file:
        assert file["posterior/theta"].shape == (2, 4, 17)
    assert complained == ""
    figures = {path.stem for path in (output / "figures").glob("*.png")}
    assert figures == {
        "parameter_traces", "log_posterior", "fields", "power_spectra", "mass_function",
        "cross_correlation",
    }  # fmt: skip
    assert (output / "figures" / "summary.txt").read_text().strip() in printed
    told = json.loads((output / "report.json").read_text())
    assert [start["sweeps"] for start in told["history"]] == [0, 8]
    command = told["history"][0]["command"]
    assert command.startswith("python -m experiments.infer --catalogue=")
    assert command.endswith(" ".join(SMALL))
    assert told["verdict"]["state"] == "TOO SHORT" and told["cost"]["core_hours"] > 0
    assert command in html.unescape((output / "report.html").read_text())
    assert f"report in {output / 'report.html'}" in printed

    initial = folder / "ics.hdf5"
    printed, _ = run(
        "initial_conditions", f"--run={output}", f"--output={initial}", "--num_particles=16",
        "--redshift=9", "--chain=1",
    )  # fmt: skip
    assert "4096 particles of chain 1, sweep 8, at z=9" in printed
    conditions = read_initial_conditions(initial)
    with h5py.File(output / "chain.h5") as file:
        noise = file["chain/white_noise"][-1, 1]
    grid = Grid(8, 60.0)
    expected = LPT(grid, Cosmology(), order=2, scale_factor=0.1).particles(
        InitialField(grid, Cosmology()).modes(noise.astype(np.float64))
    )
    # the modes that the run does not carry move particles as well, and the others alike
    shift = conditions.positions - np.indices((16,) * 3).reshape(3, -1).T * 60.0 / 16
    shift = (shift + 30.0) % 60.0 - 30.0
    coarse = expected.positions.numpy().T - np.indices((8,) * 3).reshape(3, -1).T * 60.0 / 8
    every_second = shift.reshape(16, 16, 16, 3)[::2, ::2, ::2].reshape(-1, 3)
    assert np.corrcoef(every_second.ravel(), coarse.ravel())[0, 1] > 0.8
    _, complained = run(
        "initial_conditions", f"--run={output}", f"--output={initial}", "--draw=9", status=2
    )
    assert "`draw`" in complained and "4 stored fields" in complained

    catalogue.rename(catalogue.with_name("moved.h5"))
    _, complained = run("summarise", f"--run={output}", status=2)
    assert "does not exist" in complained
    _, complained = run("summarise", f"--run={output}", f"--catalogue={fitted}", status=2)
    assert "SHA-256" in complained
    catalogue.with_name("moved.h5").rename(catalogue)


@pytest.mark.slow
def test_checks_export_and_figures_of_a_run(folder, catalogue):
    fitted, output = folder / "fitted.h5", folder / "finished"
    run(
        "pretrain", f"--catalogue={catalogue}", "--grid=8", "--num_starts=1", "--num_steps=50",
        "--num_polish=50", f"--output={fitted}",
    )  # fmt: skip
    run("infer", f"--catalogue={catalogue}", f"--pretrained={fitted}", f"--output={output}", *SMALL)

    printed, complained = run("check", f"--run={output}", "--num_mocks=3", "--write_mocks=1")
    for part in ("4 samples, 3 mocks of each", "mass function", "scatter of counts"):
        assert part in printed
    assert complained == ""
    written = {path.name for path in (output / "checks").iterdir()}
    assert written == {"checks.txt", "checks.json", "checks.png", "checks.pdf", "mock_000.h5"}
    assert len(json.loads((output / "checks" / "checks.json").read_text())["checks"]) == 7
    assert Catalogue.read_hdf5(output / "checks" / "mock_000.h5").mass.min() >= 2e12

    saved = folder / "bias"
    printed, complained = run("export", f"--run={output}", f"--output={saved}", "--num_samples=3")
    assert "2 samples of chains 0 1" in printed
    assert "for cells of 7.5 Mpc/h and haloes above 2e+12 Msun/h; NOT CONVERGED" in printed
    described = json.loads((saved / "assets" / "metadata.json").read_text())
    assert described["convergence"]["verdict"] == "NOT CONVERGED"
    assert described["provenance"]["num_sweeps"] == 8
    _, complained = run("export", f"--run={output}", f"--output={saved}", status=2)
    assert "Refusing to overwrite" in complained
    again = f"--output={folder / 'again'}"
    _, complained = run("export", f"--run={output}", again, "--chains=0,2", status=2)
    assert "different numbers from 0 to 1" in complained
    _, complained = run("export", again, status=2)
    assert "either --run or --pretrained" in complained
    printed, _ = run("export", f"--pretrained={fitted}", again)
    assert "1 sample of chain 0" in printed

    paper = folder / "paper"
    printed, complained = run(
        "figures", f"--run={output}", f"--output={paper}", "--formats=png", "--dpi=50"
    )
    assert complained == ""
    assert "fields of chains" in printed
    names = {re.sub("_psi_(rises|falls)", "", path.stem) for path in paper.iterdir()}
    assert names == {
        "figure_2_mass_function", "figure_3_traces", "figure_4_projections", "figure_5_fields",
        "figure_6_power",
    }  # fmt: skip
    assert {path.suffix for path in paper.iterdir()} == {".png"}
    _, complained = run("figures", f"--run={output}", "--formats=svg", status=2)
    assert "png,pdf" in complained


def write(path, positions, mass, box_size=10.0):
    with h5py.File(path, "w") as file:
        file["halos/position"] = positions
        file["halos/mass"] = mass
        if box_size is not None:
            file.attrs["box_size"] = box_size
    return path


CSV = (
    b"# box_size=10, redshift=1, Omega_m=0.3\n"
    b"x [Mpc/h],y [Mpc/h],z [Mpc/h],mass [Msun/h]\n2,2,2,3e12\n"
)
GOOD = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([3e12, 5e13])


def spoiled(positions=None, mass=None, **options):
    good_positions, good_mass = (a.copy() for a in GOOD)
    return (
        good_positions if positions is None else np.asarray(positions),
        good_mass if mass is None else np.asarray(mass),
        options,
    )


@pytest.mark.parametrize(
    ("content", "arguments", "complaint"),
    [
        (None, [], "does not exist"),
        (b"x y z\n1 2 3\n", [], "a column for mass.*--columns=mass"),
        (b"x y z mass\n1 2 3 3e12\n", [], "--length_unit"),
        (CSV, ["--Omega_m=0.25"], "Omega_m=0.3 .*--nouse_header.*--Omega_m=0.25"),
        (CSV, ["--scale_factor=1"], "`scale_factor`.*scale_factor=0.5"),
        (CSV, ["--origin=1,1,1", "--box_size=5"], "`padding`.*--padding=valid"),
        (CSV, ["--origin=1,1", "--box_size=5"], "`origin`.*three numbers"),
        (CSV, ["--columns=mass"], "`columns`.*x=NAME"),
        (CSV, ["--columns=mass=M500c"], "`columns`.*'mass'.*mass='M500c'"),
        (CSV, ["--format=rockstar"], "`path`.*#ID"),
        (CSV[:-1], [], "last line"),
        (spoiled(mass=[np.nan, 1e13]), [], "`mass`.*1 of 2 haloes"),
        (spoiled(mass=[-1e13, 1e13]), [], "`mass`.*1 of 2 haloes"),
        (spoiled(positions=[[1.0, 2.0, 3.0], [4.0, 5.0, 10.5]]), [], "`positions`.*outside"),
        (spoiled(box_size=0.0), [], "`box_size`.*positive"),
        (spoiled(box_size=None), [], "box_size"),
        (spoiled(), ["--box_size=12"], "`box_size`.*10"),
        (spoiled(), ["--mass_threshold=1e16"], "`mass_threshold`.*largest"),
        (spoiled(), ["--completeness=nowhere.npy"], "completeness.*nowhere.npy"),
        (spoiled(), ["--radial_selection=nowhere.txt"], "`observer`.*None"),
        (spoiled(), ["--radial_selection=nowhere.txt", "--observer=0,0,0"], "no file.*nowhere"),
    ],
)
def test_bad_input_is_one_clear_line_before_tensorflow_starts(
    tmp_path, content, arguments, complaint
):
    path = tmp_path / "halos.h5"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        write(path, content[0], content[1], **content[2])
    output = tmp_path / "run"
    _, complained = run(
        "infer", f"--catalogue={path}", f"--output={output}", "--grid=8", *arguments, status=2
    )
    assert complained.startswith("error: ")
    assert complained.count("\n") == 1
    assert re.search(complaint, complained)
    assert not output.exists()


def test_a_missing_dataset_lists_what_is_there(tmp_path):
    with h5py.File(tmp_path / "halos.h5", "w") as file:
        file["halos/position"] = GOOD[0]
        file.attrs["box_size"] = 10.0
    _, complained = run(
        "infer", f"--catalogue={tmp_path / 'halos.h5'}", f"--output={tmp_path / 'run'}", status=2
    )
    assert "halos/mass" in complained
    assert "halos/position" in complained


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path):
    rng = np.random.default_rng(0)
    table = np.column_stack([rng.uniform(0, 60, (200, 3)), 10 ** rng.uniform(12, 14, 200)])
    path = tmp_path / "halos.txt"
    np.savetxt(path, table, header="x y z mass")
    before = sorted(tmp_path.iterdir())
    printed, complained = run(
        "infer", f"--catalogue={path}", "--box_size=60", "--length_unit=Mpc/h",
        "--mass_unit=Msun/h", "--Omega_m=0.3", "--padding=valid", f"--output={tmp_path / 'run'}",
        *SMALL, "--dry_run",
    )  # fmt: skip
    assert complained == ""
    used, read, below, faces = map(
        int,
        re.search(
            r"haloes: (\d+) of (\d+) used; (\d+) below the mass threshold of 2e\+12 Msun/h, (\d+) "
            r"near the faces",
            printed,
        ).groups(),
    )
    assert read == 200 and below == (table[:, 3] < 2e12).sum()
    assert used + below + faces == read and faces > 0
    for part in (
        "Omega_m=0.3 (flags)", "h=0.68", "(defaults)", "8^3 cells", "chain file", "MiB", "GiB",
        "ms for a gradient", "8 sweeps of 2 chains", "nothing was written",
    ):  # fmt: skip
        assert part in printed, part
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_catalogue_of_another_code_from_run_to_summary(tmp_path):
    mock, *_ = draw_catalogue()
    path = tmp_path / "out_0.list"
    half = mock.box_size / 2
    lines = ["#ID Mvir X Y Z PID", "#a = 1.0", "#Om = 0.300000; Ol = 0.700000; h = 0.700000",
             f"#Box size: {2 * mock.box_size} Mpc/h", "#Units: Masses in Msun / h",
             "#Units: Positions in Mpc / h (comoving)"]  # fmt: skip
    for number, (x, m) in enumerate(zip(mock.positions + half, mock.mass, strict=True)):
        lines.append(f"{number} {m} {x[0]} {x[1]} {x[2]} {-1 if number % 10 else 3}")
    path.write_text("\n".join(lines) + "\n")
    output = tmp_path / "run"
    arguments = [
        f"--catalogue={path}", f"--output={output}", f"--box_size={mock.box_size}",
        f"--origin={half},{half},{half}", *SMALL,
    ]  # fmt: skip
    _, complained = run("infer", *arguments, status=2)
    assert "--padding=valid" in complained and complained.count("\n") == 1
    _, complained = run("infer", *arguments, "--padding=valid", "--Omega_m=0.25", status=2)
    assert "Omega_m=0.3 " in complained and "--Omega_m=0.25" in complained
    printed, complained = run("infer", *arguments, "--padding=valid")
    assert complained == ""
    assert "Omega_m=0.3, h=0.7" in printed and "(header)" in printed
    assert "subhaloes (with a parent id), left out" in printed
    with h5py.File(output / "chain.h5") as file:
        assert file.attrs["cosmology.Omega_m"] == 0.3
    printed, _ = run("infer", *arguments, "--padding=valid")
    assert "going on after sweep 8 of 8" in printed
    _, complained = run("infer", *arguments, "--padding=valid", "--keep_subhaloes", status=2)
    assert "different run" in complained
    printed, complained = run("summarise", f"--run={output}", f"--figures={tmp_path / 'figures'}")
    assert "haloes: " in printed
    assert complained == ""


@pytest.mark.slow
def test_the_joint_scheme_in_two_processes(folder, catalogue):
    output = folder / "joint"
    arguments = [
        f"--catalogue={catalogue}", f"--output={output}", "--grid=8", "--num_warmup=10",
        "--num_samples=4", "--num_chains=2", "--num_processes=2", "--gradients_per_sweep=3",
        "--field_every=2",
    ]  # fmt: skip
    printed, complained = run("infer", *arguments)
    assert "sampling 14/14" in printed
    assert "chain 1: parameters fitted to its field" in printed
    assert complained == ""
    printed, complained = run("summarise", f"--run={output}")
    for part in ("24 gradients", "energy error", "unadjusted", "in 95%", "chi^2", "network's psi"):
        assert part in printed
    assert complained == ""


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("--grid=33", "even"),
        ("--grid=2", ">= 4"),
        ("--box_size=-1", "positive"),
        ("--num_chains=0", "positive"),
        ("--num_warmup=1", ">= 2"),
        ("--padding=same", "padding"),
    ],
)
def test_bad_flags_are_named(tmp_path, flag, complaint):
    _, complained = run("infer", f"--output={tmp_path / 'run'}", flag, status=2)
    assert flag.split("=")[0] in complained
    assert complaint in complained
    assert not (tmp_path / "run").exists()


def test_a_halo_where_the_completeness_is_zero(tmp_path, catalogue):
    haloes = Catalogue.read_hdf5(catalogue)
    completeness = np.ones((8, 8, 8))
    completeness.ravel()[haloes.voxel_index(8)[0]] = 0.0
    np.save(tmp_path / "completeness.npy", completeness)
    _, complained = run(
        "infer", f"--catalogue={catalogue}", f"--output={tmp_path / 'run'}",
        f"--completeness={tmp_path / 'completeness.npy'}", *SMALL, status=2,
    )  # fmt: skip
    assert "`completeness`" in complained
    assert "zero at" in complained
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path, catalogue):
    tmp_path.chmod(0o500)
    _, complained = run(
        "infer", f"--catalogue={catalogue}", f"--output={tmp_path / 'run'}", *SMALL, status=2
    )
    assert "ermission" in complained


def test_a_run_without_samples_has_no_summary(tmp_path):
    _, complained = run("summarise", f"--run={tmp_path}", status=2)
    assert "chain" in complained


def test_unexpected_arguments(tmp_path):
    _, complained = run("infer", f"--output={tmp_path}", "halos.h5", status=2)
    assert "halos.h5" in complained


@pytest.mark.slow
def test_compare(folder, catalogue):
    output = folder / "comparison"
    arguments = [
        f"--catalogue={catalogue}", "--grid=8", "--num_steps=20", "--num_polish=20",
        "--models=neyrinck,power_law,power_law:negative_binomial", "--num_starts=1", "--noheld_out",
        f"--output={output}",
    ]  # fmt: skip
    printed, complained = run("compare", *arguments)
    assert complained == ""
    assert (output / "comparison.md").read_text() in printed
    numbers = json.loads((output / "comparison.json").read_text())
    names = ["neyrinck", "power_law", "power_law:negative_binomial"]
    assert [model["name"] for model in numbers["models"]] == names
    assert [model["num_parameters"] for model in numbers["models"]] == [9, 7, 8]
    assert numbers["models"][0]["gain"] == 0.0
    _, complained = run("compare", *arguments, "--reference=linear", status=2)
    assert "argument `models`" in complained


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["joint", "gibbs"])
def test_infer_with_a_dispersion(folder, catalogue, scheme):
    output = folder / f"dispersion_{scheme}"
    arguments = [
        f"--catalogue={catalogue}", "--grid=8", "--counts=negative_binomial", f"--scheme={scheme}",
        "--num_warmup=10", "--num_samples=4", "--num_chains=1", "--num_processes=1",
        f"--output={output}",
    ]  # fmt: skip
    printed, complained = run("infer", *arguments)
    assert complained == ""
    assert "18 parameters" in printed
    with h5py.File(output / "chain.h5") as file:
        theta = file["chain/theta"][()]
        assert theta.shape[-1] == 18
        assert np.all(np.isfinite(theta))
        assert np.ptp(theta[..., -1]) > 0
        assert file.attrs["counts"] == "negative_binomial"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["joint", "gibbs"])
@pytest.mark.parametrize("bias", [bias for bias in options.BIASES if bias != "neural"])
def test_infer_with_every_bias_model(folder, catalogue, bias, scheme):
    output = folder / f"{bias}_{scheme}"
    arguments = [
        f"--catalogue={catalogue}", "--grid=8", f"--bias={bias}", f"--scheme={scheme}",
        "--num_warmup=10", "--num_samples=4", "--num_chains=1", "--num_processes=1",
        f"--output={output}",
    ]  # fmt: skip
    printed, complained = run("infer", *arguments)
    assert complained == ""
    assert "sampling 14/14" in printed
    with h5py.File(output / "chain.h5") as file:
        assert np.all(np.isfinite(file["chain/theta"][()]))
        assert file.attrs["bias"] == bias
