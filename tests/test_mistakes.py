"""Every mistake of docs/mistakes.md is made here, and says what the page says it says."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npe_tf.chain_store
from npe_tf.catalogue import Catalogue
from npe_tf.chain_store import ChainStore, Column
from npe_tf.cosmology import Cosmology
from npe_tf.plots import parameter_traces

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "mistakes.md"

HEADER = "# box_size = 250 Mpc/h, redshift = 0, Omega_m = 0.3\n"
NAMES = "x [Mpc/h],y [Mpc/h],z [Mpc/h],mass [Msun/h]\n"


def rows_of_the_page():
    """Mistake -> message, both as the page has them."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        row = re.fullmatch(r"\| (.+?) \| `(.+)` \| (.+) \|", line)
        if row:
            assert row[1] not in rows, row[1]
            rows[row[1]] = row[2]
    return rows


MESSAGES = rows_of_the_page()


def pattern_of(message):
    """The message as a regular expression; `...` is anything."""
    return ".*".join(re.escape(part.strip()) for part in message.split("..."))


def program(name, *arguments):
    """What a program prints as its error."""
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


def text(folder, rows="2,2,2,3e12\n3,3,200,4e13\n", names=NAMES, header=HEADER, end="\n"):
    """A file of haloes."""
    path = folder / "halos.csv"
    path.write_text(header + names + rows.rstrip("\n") + end)
    return path


def many(scale=1.0, shift=0.0, mass=3e12):
    """Rows of 200 haloes in a box of 250."""
    positions = np.random.default_rng(0).uniform(0.0, 250.0, (200, 3))
    table = np.column_stack([(positions + shift) * scale, np.full(200, mass)])
    return "".join(",".join(f"{x:.6g}" for x in row) + "\n" for row in table)


def infer(folder, *arguments, **content):
    """npe-infer on a file of haloes, which ends before TensorFlow is loaded."""
    path = text(folder, **content)
    return program("infer", f"--catalogue={path}", f"--output={folder / 'run'}", *arguments)


def reading(folder, options=None, threshold=None, **content):
    """`Catalogue.read`, the threshold, and what is doubted."""
    catalogue = Catalogue.read(text(folder, **content), **(options or {}))
    if threshold is not None:
        catalogue.above(threshold)
    doubts = catalogue.doubts(2e12)
    assert doubts, "nothing was complained of"
    return "\n".join(doubts)


def a_run(folder, sweeps=0, **attributes):
    """A chain file with a number of sweeps."""
    path = folder / "chain.h5"
    columns = {"theta": Column((1, 2))}
    store = ChainStore.create(path, columns, 10, {}, {"num_warmup": 10, **attributes})
    with store:
        for _ in range(sweeps):
            store.append({"theta": np.zeros((1, 2))}, {})
    return path


def other_settings(folder):
    ChainStore.open(a_run(folder), "r+", expected={"num_warmup": 20})


def two_writers(folder):
    with ChainStore.open(a_run(folder), "r+"):
        ChainStore.open(folder / "chain.h5", "r+")


def another_version(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(npe_tf.chain_store, "FORMAT", "npe_tf chain 99")
        path = a_run(folder)
    ChainStore.open(path)


def another_file(folder):
    (folder / "chain.h5").write_text("not a chain\n")
    ChainStore.open(folder / "chain.h5")


def too_short(folder):
    from npe_tf.run import Run

    with ChainStore.open(a_run(folder, sweeps=10)) as store:
        Run(store, None)


def fitted(folder, bias="neural", path=None):
    """Parameters of the neural model for another one, or of a file that has none."""
    from npe_tf.posterior import PosteriorConfig
    from npe_tf.pretraining import Pretrained, load_parameters, save_parameters

    made = PosteriorConfig(num_cells=4, mass_threshold=2e12, bias="linear").build_bias()
    if path is None:
        path = folder / "fitted.h5"
        save_parameters(path, Pretrained(np.zeros(made.parameters.size), 0.0, (A_START,)), made)
    load_parameters(path, PosteriorConfig(4, 2e12, bias=bias).build_bias())


class A_START:  # noqa: N801  (of `Start`, what is written of it)
    theta, log_likelihood, is_dead = np.zeros(7), 0.0, False


def a_catalogue_as_parameters(folder):
    haloes = Catalogue([[1.0, 1.0, 1.0]], [3e12], 10.0)
    haloes.write_hdf5(folder / "halos.h5")
    fitted(folder, path=folder / "halos.h5")


def without(monkeypatch, package, function):
    """Call a function where a package is not installed."""
    with monkeypatch.context() as patch:
        for module in [m for m in sys.modules if m.partition(".")[0] == package]:
            patch.delitem(sys.modules, module)
        patch.setitem(sys.modules, package, None)
        function()


def draw():
    parameter_traces(np.ones((5, 1, 1)), ["bias[0]"])


def to_arviz(folder):
    from npe_tf.inference_data import to_inference_data

    to_inference_data(folder)


def completeness_of_another_mesh(folder):
    from npe_tf.grid import Grid
    from npe_tf.likelihood import PoissonLikelihood

    haloes = Catalogue([[1.0, 1.0, 1.0]], [3e12], 10.0)
    PoissonLikelihood(Grid(8, 10.0), haloes, 2e12, completeness=np.ones((4, 4, 4)))


def no_array(folder):
    (folder / "C.npy").write_text("1 1 1\n")
    return infer(folder, f"--completeness={folder / 'C.npy'}")


def layer(name, *arguments):
    import layers

    getattr(layers, name)(*arguments)


def float64_for_float32():
    import tensorflow as tf

    from npe_tf.posterior import PosteriorConfig

    bias = PosteriorConfig(num_cells=4, mass_threshold=2e12).build_bias()
    double = tf.cast(bias.theta, tf.float64)
    bias.mass_function(tf.zeros((4, 4, 4), tf.float64), double)


def one_chain():
    import tensorflow as tf

    from samplers import warm_up

    warm_up(lambda x: -tf.reduce_sum(x**2, -1), tf.zeros((1, 3)), seed=(1, 2), num_steps=100)


UNUSUAL = "x [Mpc/h],y [Mpc/h],z [Mpc/h],weight [Msun/h]\n"
ANONYMOUS = "x,y,z,mass\n"
IN_MPC = "x [Mpc],y [Mpc],z [Mpc],mass [Msun/h]\n"
KPC_HEADER = "# box_size = 250000\n"

MISTAKES = {
    "no output folder": lambda d, m: program("infer", "--grid=8"),
    "a file without its flag": lambda d, m: program("infer", text(d), f"--output={d}"),
    "a flag misspelt": lambda d, m: infer(d, "--gird=32"),
    "a redshift given": lambda d, m: infer(d, "--redshift=1"),
    "a redshift as scale factor": lambda d, m: infer(d, "--scale_factor=2"),
    "an odd mesh": lambda d, m: infer(d, "--grid=33"),
    "a mesh too large for the machine": lambda d, m: infer(d, "--grid=4096"),
    "a path misspelt": lambda d, m: program("infer", f"--catalogue={d}/hlos", f"--output={d}"),
    "a column with an unusual name": lambda d, m: reading(d, names=UNUSUAL),
    "units not stated": lambda d, m: reading(d, names=ANONYMOUS),
    "box not stated": lambda d, m: reading(d, header=""),
    "Msun for Msun/h": lambda d, m: reading(d, {"mass_unit": "Msun"}),
    "Mpc, and no h": lambda d, m: reading(d, names=IN_MPC),
    "the wrong format": lambda d, m: reading(d, {"format": "rockstar"}),
    "a file cut off": lambda d, m: reading(d, end=""),
    "a NaN mass": lambda d, m: reading(d, rows="2,2,2,nan\n"),
    "subhaloes only": lambda d, m: reading(
        d, names="x [Mpc/h],y [Mpc/h],z [Mpc/h],mass [Msun/h],pid\n", rows="2,2,2,3e12,7\n"
    ),
    "kpc/h taken for Mpc/h": lambda d, m: reading(d, rows=many(scale=1e3)),
    "positions about the centre": lambda d, m: reading(d, rows=many(shift=-125.0)),
    "box and positions in kpc/h": lambda d, m: reading(
        d,
        {"length_unit": "Mpc/h", "mass_unit": "Msun/h"},
        header=KPC_HEADER,
        names=ANONYMOUS,
        rows=many(scale=1e3),
    ),
    "positions from 0 to 1": lambda d, m: reading(d, rows=many(scale=1 / 250)),
    "masses in 1e10 Msun/h": lambda d, m: reading(d, rows=many(mass=3e2), threshold=2e12),
    "logarithms for masses": lambda d, m: reading(d, rows=many(mass=12.5), threshold=2e12),
    "a threshold above all masses": lambda d, m: reading(d, threshold=1e16),
    "a threshold far below all masses": lambda d, m: reading(d, rows="2,2,2,3e14\n"),
    "a sub-box taken as periodic": lambda d, m: infer(d, "--origin=1,1,1", "--box_size=50"),
    "a flag against the header": lambda d, m: infer(d, "--Omega_m=0.25"),
    "h in km/s/Mpc": lambda d, m: Cosmology(h=70),
    "two amplitudes": lambda d, m: Cosmology(A_s=2.1e-9),
    "a cosmology nobody published": lambda d, m: Cosmology.preset("Planck18"),
    "a completeness that is no array": lambda d, m: no_array(d),
    "a completeness of another mesh": lambda d, m: completeness_of_another_mesh(d),
    "a mask without an observer": lambda d, m: infer(d, "--angular_mask=mask.fits"),
    "a run of other settings in the folder": lambda d, m: other_settings(d),
    "two programs on one folder": lambda d, m: two_writers(d),
    "a folder without a run": lambda d, m: program("summarise", f"--run={d}"),
    "a chain of another version": another_version,
    "another file in its place": lambda d, m: another_file(d),
    "a catalogue as fitted parameters": lambda d, m: a_catalogue_as_parameters(d),
    "parameters of another bias model": lambda d, m: fitted(d, bias="power_law"),
    "a run too short to summarise": lambda d, m: too_short(d),
    "no matplotlib": lambda d, m: without(m, "matplotlib", draw),
    "no ArviZ": lambda d, m: without(m, "arviz", lambda: to_arviz(d)),
    "a negative number of filters": lambda d, m: layer("MultipoleConv3D", -1, 3),
    "no components": lambda d, m: layer("MixtureDensity", 0, 28.3),
    "a float64 density for a float32 network": lambda d, m: float64_for_float32(),
    "a warm-up of one chain": lambda d, m: one_chain(),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_says_what_the_page_says(mistake, tmp_path, monkeypatch):
    try:
        said = MISTAKES[mistake](tmp_path, monkeypatch)
    except (ValueError, TypeError, OSError, ImportError) as error:
        said = str(error)
    assert said, f"{mistake}: nothing was complained of"
    assert re.search(pattern_of(MESSAGES[mistake]), " ".join(said.split())), said
    assert not (tmp_path / "run").exists()


def test_the_page_has_these_mistakes_and_no_others():
    assert list(MESSAGES) == list(MISTAKES)
    assert len(MESSAGES) >= 30


def test_a_sound_catalogue_is_not_doubted(tmp_path):
    assert Catalogue.read(text(tmp_path, rows=many())).doubts(2e12) == ()
