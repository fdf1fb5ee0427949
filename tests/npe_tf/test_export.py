import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.catalogue import Catalogue
from npe_tf.export import METADATA_FILE, BiasExport, export_bias
from npe_tf.posterior import PosteriorConfig

CONFIG = PosteriorConfig(num_cells=8, mass_threshold=2e12, dtype="float64")
BOX_SIZE = 60.0
LOG_MASS = np.log([2e12, 7e12, 3e13, 4e14])

# Run by an interpreter that cannot import what the model was made with.
ELSEWHERE = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not installed here")

BLOCKED = ("npe_tf", "layers", "samplers", "experiments", "tensorflow_probability")
sys.meta_path.insert(0, Blocked())
import numpy as np
import tensorflow as tf

model = tf.saved_model.load("model")
given = np.load("given.npz")
found = {"theta": model.theta.numpy(), "chain": model.chain.numpy()}
for n in (8, 12):
    delta = given[f"delta_{n}"]
    found[f"mean_{n}"] = model.mass_function(delta, given["log_mass"])["mass_function"]
    found[f"one_{n}"] = model.mass_function_of_sample(delta, given["log_mass"], 2)["mass_function"]
    counts = model.signatures["expected_counts"](
        density=tf.constant(delta), log_mass_edges=tf.constant(given["log_mass"])
    )
    found[f"counts_{n}"] = counts["expected_counts"]
catalogue = model.sample_catalogue(given["delta_8"], 60.0, [1, 2])
found.update(catalogue)
with tf.GradientTape() as tape:
    delta = tf.constant(given["delta_8"])
    tape.watch(delta)
    total = tf.reduce_sum(model.mass_function(delta, given["log_mass"])["mass_function"])
found["gradient"] = tape.gradient(total, delta)
np.savez("found.npz", **{name: np.asarray(value) for name, value in found.items()})
described = json.loads(model.metadata()["json"].numpy())
with open(model.metadata_file.asset_path.numpy()) as file:
    assert json.load(file) == described
assert not set(BLOCKED) & {name.partition(".")[0] for name in sys.modules}
"""


def samples(config=CONFIG, count=5, seed=0):
    rng = np.random.default_rng(seed)
    bias = config.build_bias()
    theta = 0.1 * rng.standard_normal((count, bias.parameters.size))
    for name, value in {"kernel_weights[0, 0, 0]": 2.0, "amplitude_kernel[0, 0]": 2.0}.items():
        theta[:, bias.parameters.names.index(name)] += value
    return theta


def density(num_cells, seed=1):
    rng = np.random.default_rng(seed)
    return np.exp(0.7 * rng.standard_normal((num_cells,) * 3)) - 1.0


def library(theta, delta, config=CONFIG):
    """The library's own numbers, by its own model for this mesh."""
    bias = dataclasses.replace(config, num_cells=len(delta)).build_bias()
    mass_function = bias.mass_function(tf.constant(delta), tf.constant(theta))
    dn = np.stack([np.exp(mass_function.log_intensity(x)) for x in LOG_MASS], axis=-1)
    beyond = np.stack([mass_function.integral(x) for x in LOG_MASS], axis=-1)
    return dn, -np.diff(beyond, axis=-1) * 7.5**3


@pytest.fixture(scope="module")
def model():
    return export_bias(CONFIG, BOX_SIZE, samples(), [0, 0, 1, 1, 1], {"note": "a test"})


def test_a_sample_is_the_librarys_own(model):
    delta = density(8)
    found = model.mass_function_of_sample(delta, LOG_MASS, 3)["mass_function"]
    np.testing.assert_allclose(found, library(samples()[3], delta)[0], rtol=1e-10)


@pytest.mark.parametrize("num_cells", [8, 12])
def test_the_mean_is_that_of_the_function_on_any_mesh(model, num_cells):
    delta = density(num_cells)
    each = [library(theta, delta) for theta in samples()]
    counts = model.expected_counts(delta, LOG_MASS)["expected_counts"]
    np.testing.assert_allclose(counts, np.mean([c for _, c in each], axis=0), rtol=1e-9)
    # not the function of the mean parameters
    assert not np.allclose(counts, library(samples().mean(axis=0), delta)[1], rtol=1e-3)


def test_haloes_have_the_right_mean_and_variance(model):
    delta, draws = density(8), 100
    rate = model.expected_counts(delta, [LOG_MASS[0], 60.0])["expected_counts"].numpy()[..., 0]
    upper = model.expected_counts(delta, [math.log(7e12), 60.0])["expected_counts"].numpy()[..., 0]
    counts, heavy = [], []
    for number in range(draws):
        found = model.sample_catalogue(delta, BOX_SIZE, [number, 5])
        log_mass = found["log_mass"].numpy()
        assert log_mass.min() >= LOG_MASS[0]
        catalogue = Catalogue(found["positions"].numpy(), np.exp(log_mass), BOX_SIZE)
        voxel = catalogue.voxel_index(8)
        counts.append(np.bincount(voxel, minlength=512))
        heavy.append(np.bincount(voxel[log_mass > math.log(7e12)], minlength=512))
    counts, heavy = np.array(counts, float), np.array(heavy, float)
    for found, expected in ((counts, rate.ravel()), (heavy, upper.ravel())):
        # sums over voxels of independent Poisson numbers: five standard deviations, and a chi^2 of
        # as many degrees as there are voxels, whose own scatter a small rate adds to
        chi = (found.mean(axis=0) - expected) / np.sqrt(expected / draws)
        assert abs(np.sum(found.mean(axis=0) - expected)) < 5 * np.sqrt(expected.sum() / draws)
        scatter = np.sqrt(np.sum(2.0 + 1.0 / (expected * draws)))
        assert abs(np.sum(chi**2) - chi.size) < 5 * scatter
        ratio = np.sum((found - expected) ** 2, axis=0) / draws / expected
        error = np.sqrt(np.sum((2.0 + 1.0 / expected) / draws)) / chi.size
        assert abs(ratio.mean() - 1.0) < 5 * error
    # sums too: voxels do not move together
    total = counts.sum(axis=1)
    assert abs(total.var(ddof=1) / rate.sum() - 1.0) < 5 * math.sqrt(2.0 / draws)


def test_positions_fill_the_cell_about_the_vertex(model):
    delta = np.full((8, 8, 8), -1.0)
    found = model.sample_catalogue_of_sample(np.zeros((8, 8, 8)), BOX_SIZE, [3, 4], 0)
    inside = np.mod(found["positions"].numpy() / 7.5 + 0.5, 1.0)
    assert len(inside) > 500
    error = 1.0 / math.sqrt(12.0 * len(inside))
    np.testing.assert_allclose(inside.mean(axis=0), 0.5, atol=5 * error)
    np.testing.assert_allclose(inside.var(axis=0), 1.0 / 12.0, rtol=0.1)
    again = model.sample_catalogue_of_sample(np.zeros((8, 8, 8)), BOX_SIZE, [3, 4], 0)
    np.testing.assert_array_equal(again["positions"], found["positions"])
    other = model.sample_catalogue_of_sample(delta, BOX_SIZE, [3, 4], 0)
    assert len(other["log_mass"]) != len(found["log_mass"])


def test_valid_padding_loses_the_voxels_at_the_faces():
    config = dataclasses.replace(CONFIG, padding="valid")
    model = export_bias(config, BOX_SIZE, samples()[:1])
    delta = density(8)
    found = model.mass_function(delta, LOG_MASS)["mass_function"]
    np.testing.assert_allclose(found, library(samples()[0], delta, config)[0], rtol=1e-10)
    assert found.shape == (6, 6, 6, 4)
    positions = model.sample_catalogue(delta, BOX_SIZE, [1, 1])["positions"].numpy() / 7.5
    assert positions.min() > 0.5
    assert positions.max() < 6.5
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 2 cells"):
        model.mass_function(delta[:2], LOG_MASS)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda m: m.mass_function(density(8), [13.0]), "`log_mass`. Expected natural logarithms"),
        (lambda m: m.mass_function(density(8), [np.nan]), "`log_mass`"),
        (lambda m: m.expected_counts(density(8), LOG_MASS[::-1]), "two or more and increasing"),
        (lambda m: m.expected_counts(density(8), LOG_MASS[:1]), "two or more and increasing"),
        (lambda m: m.mass_function(density(8) - 1.0, LOG_MASS), "overdensities of at least -1"),
        (lambda m: m.mass_function(density(8) * np.inf, LOG_MASS), "finite overdensities"),
        (lambda m: m.mass_function_of_sample(density(8), LOG_MASS, 5), "integer from 0 to 4"),
        (lambda m: m.mass_function_of_sample(density(8), LOG_MASS, -1), "integer from 0 to 4"),
        (lambda m: m.sample_catalogue(density(8)[1:], 60.0, [1, 2]), "a cube"),
        (lambda m: m.sample_catalogue(density(8), -1.0, [1, 2]), "positive length"),
    ],
)
def test_wrong_input_is_named(model, call, complaint):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        call(model)
    assert complaint in str(caught.value)


def test_another_cell_size_is_warned_of(model, capfd):
    model.sample_catalogue_of_sample(density(8), 60.3, [1, 2], 0)
    assert capfd.readouterr().err == ""
    model.sample_catalogue_of_sample(density(8), 80.0, [1, 2], 0)
    assert "cells of 10 Mpc/h; the bias was fitted to cells of 7.5" in capfd.readouterr().err


def test_what_cannot_be_exported_is_refused():
    bias = CONFIG.build_bias(any_mesh=True)
    with pytest.raises(ValueError, match="mesh of any size"):
        BiasExport(CONFIG.build_bias(), samples(), cell_size=7.5)
    single = dataclasses.replace(CONFIG, dtype="float32").build_bias(any_mesh=True)
    with pytest.raises(ValueError, match="float64"):
        BiasExport(single, samples(), cell_size=7.5)
    with pytest.raises(ValueError, match=r"shape \[S, 17\]"):
        BiasExport(bias, samples()[:, 1:], cell_size=7.5)
    with pytest.raises(ValueError, match="finite"):
        BiasExport(bias, samples() * np.nan, cell_size=7.5)
    with pytest.raises(ValueError, match="`chain`"):
        BiasExport(bias, samples(), [0, 1], cell_size=7.5)
    with pytest.raises(ValueError, match="`cell_size`"):
        BiasExport(bias, samples(), cell_size=0.0)


@pytest.mark.slow
def test_it_loads_where_the_package_is_not(model, tmp_path):
    model.save(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    fields = {f"delta_{n}": density(n) for n in (8, 12)}
    np.savez(tmp_path / "given.npz", log_mass=LOG_MASS, **fields)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        cwd=tmp_path, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_array_equal(found["theta"], samples())
    np.testing.assert_array_equal(found["chain"], [0, 0, 1, 1, 1])
    for n in (8, 12):
        each = [library(theta, density(n)) for theta in samples()]
        np.testing.assert_allclose(found[f"one_{n}"], each[2][0], rtol=1e-6)
        np.testing.assert_allclose(found[f"mean_{n}"], np.mean([a for a, _ in each], 0), rtol=1e-6)
        np.testing.assert_allclose(
            found[f"counts_{n}"], np.mean([b for _, b in each], axis=0), rtol=1e-6
        )
    here = model.sample_catalogue(density(8), BOX_SIZE, [1, 2])
    np.testing.assert_array_equal(found["positions"], here["positions"])
    np.testing.assert_array_equal(found["log_mass"], here["log_mass"])
    with tf.GradientTape() as tape:
        delta = tf.constant(density(8))
        tape.watch(delta)
        total = tf.reduce_sum(model.mass_function(delta, LOG_MASS)["mass_function"])
    np.testing.assert_allclose(found["gradient"], tape.gradient(total, delta), rtol=1e-9)
    described = json.loads((tmp_path / "model" / "assets" / METADATA_FILE).read_text())
    assert described["note"] == "a test"
    assert described["cell_size"] == 7.5
    assert described["cosmology"]["sigma8"] == CONFIG.cosmology.sigma8
    assert len(described["parameters"]) == 17
    with pytest.raises(FileExistsError, match="overwrite"):
        model.save(tmp_path / "model")
