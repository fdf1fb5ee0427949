"""Chain files as ArviZ takes them."""

import sys

import numpy as np
import pytest

from npe_tf.chain_store import CHAIN_FILE, ChainStore, Column
from npe_tf.diagnostics import parameter_table
from npe_tf.grid import Grid
from npe_tf.inference_data import to_inference_data

arviz = pytest.importorskip("arviz")

CHAINS, WARMUP, SWEEPS, CAPACITY = 2, 5, 205, 300
SHAPES = {
    "theta": (3,),
    "log_posterior": (),
    "acceptance": (2,),
    "step_size": (2,),
    "power": (4,),
    "modes": (4,),
    "voxels": (2,),
    "mass_function": (2, 3),
}
ATTRIBUTES = {
    "num_cells": 8,
    "box_size": 60.0,
    "num_warmup": WARMUP,
    "parameters": ["a", "b", "c"],
    "redshift_space": True,
    "catalogue": "halos.h5",
    "names.modes": ["mode 1 re", "mode 1 im", "mode 2 re", "mode 2 im"],
    "names.voxels": ["voxel (0,0,0)", "voxel (1,2,3)"],
    "names.mass_function": [f"n({i} | {j})" for j in range(2) for i in range(3)],
    "watched.environments": np.array([0.5, 2.0]),
    "watched.masses": np.array([1e12, 1e13, 1e14]),
    "watched.wavevectors": np.array([[1, 0, 0], [0, 2, 1]]),
}
CONSTANTS = {
    "counts": np.arange(8).reshape(2, 2, 2),
    "true_delta_linear": np.linspace(-1, 1, 512).reshape(8, 8, 8),
}


def write(path, attributes=ATTRIBUTES, shapes=SHAPES, num_sweeps=SWEEPS, constants=CONSTANTS):
    """A chain under way; returns its rows."""
    columns = {name: Column((CHAINS, *shape)) for name, shape in shapes.items()}
    columns["wall_seconds"] = Column()
    columns["white_noise"] = Column((CHAINS, 8, 8, 8), np.float32, every=10)
    state = {"nothing": np.zeros(1)}
    rng = np.random.default_rng(0)
    rows = []
    with ChainStore.create(path, columns, CAPACITY, state, attributes, constants) as store:
        for _ in range(num_sweeps):
            rows.append({n: rng.normal(size=c.shape).astype(c.dtype) for n, c in columns.items()})
            store.append(rows[-1], state)
    return {name: np.stack([row[name] for row in rows]) for name in columns} if rows else {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def rows(folder):
    return write(folder / CHAIN_FILE)


@pytest.fixture
def data(folder, rows):
    return to_inference_data(folder)


def groups_of(data):
    """Groups of either kind of container."""
    groups = data.children if hasattr(data, "children") else data.groups()
    return {str(name).strip("/") for name in groups}


def test_posterior(data, rows):
    assert groups_of(data) == {"posterior", "sample_stats", "observed_data", "constant_data"}
    dimensions = {
        "theta": ("parameter",),
        "power": ("k",),
        "modes": ("mode",),
        "voxels": ("voxel",),
        "mass_function": ("environment", "mass"),
    }
    assert set(data.posterior.data_vars) == set(dimensions)
    for name, row in dimensions.items():
        variable = data.posterior[name]
        assert variable.dims == ("chain", "draw", *row)
        np.testing.assert_array_equal(variable, rows[name][WARMUP:].swapaxes(0, 1))


def test_coordinates_find_a_quantity(data, rows):
    posterior = data.posterior
    theta = posterior["theta"].sel(parameter="b", chain=1)
    np.testing.assert_array_equal(theta, rows["theta"][WARMUP:, 1, 1])
    mode = posterior["modes"].sel(mode="mode 2 re", chain=0)
    np.testing.assert_array_equal(mode, rows["modes"][WARMUP:, 0, 2])
    voxel = posterior["voxels"].sel(voxel="voxel (1,2,3)", chain=0)
    np.testing.assert_array_equal(voxel, rows["voxels"][WARMUP:, 0, 1])
    number = posterior["mass_function"].sel(environment=2.0, mass=1e13, chain=0)
    np.testing.assert_array_equal(number, rows["mass_function"][WARMUP:, 0, 1, 1])
    np.testing.assert_allclose(posterior["k"], Grid(8, 60.0).shell_wavenumber())


def test_sample_stats(data, rows):
    stats = data.sample_stats
    assert set(stats.data_vars) == {"lp", "acceptance_rate", "step_size"}
    assert stats["lp"].dims == ("chain", "draw")
    np.testing.assert_array_equal(stats["lp"], rows["log_posterior"][WARMUP:].T)
    field = stats["acceptance_rate"].sel(block="field")
    np.testing.assert_array_equal(field, rows["acceptance"][WARMUP:, :, 0].T)
    parameters = stats["step_size"].sel(block="parameters")
    np.testing.assert_array_equal(parameters, rows["step_size"][WARMUP:, :, 1].T)


def test_data_and_attributes(data):
    np.testing.assert_array_equal(data.observed_data["counts"], CONSTANTS["counts"])
    assert set(data.constant_data.data_vars) == {"true_delta_linear"}
    np.testing.assert_array_equal(
        data.constant_data["true_delta_linear"], CONSTANTS["true_delta_linear"]
    )
    assert data.attrs["catalogue"] == "halos.h5"
    assert data.attrs["redshift_space"] == 1
    assert data.attrs["inference_library"] == "npe_tf"
    # the coordinates have them
    assert not any(name.startswith(("names.", "watched.")) for name in data.attrs)


def test_warmup_in_groups_of_its_own(folder, rows):
    data = to_inference_data(folder / CHAIN_FILE, warmup=True)
    assert groups_of(data) >= {"warmup_posterior", "warmup_sample_stats"}
    theta = data.warmup_posterior["theta"]
    np.testing.assert_array_equal(theta, rows["theta"][:WARMUP].swapaxes(0, 1))
    np.testing.assert_array_equal(data.warmup_sample_stats["lp"], rows["log_posterior"][:WARMUP].T)
    assert data.posterior.sizes["draw"] == SWEEPS - WARMUP


def test_arviz_agrees_with_the_diagnostics(data, rows):
    rhat = np.asarray(arviz.rhat(data.posterior["theta"].to_dataset())["theta"])
    ess = np.asarray(arviz.ess(data.posterior["theta"].to_dataset())["theta"])
    table = parameter_table(rows["theta"][WARMUP:], ATTRIBUTES["parameters"])
    np.testing.assert_allclose(rhat, [row.rhat for row in table], rtol=1e-3)
    np.testing.assert_allclose(ess, [row.ess for row in table], rtol=0.2)


def test_netcdf_there_and_back(data, tmp_path):
    path = tmp_path / "run.nc"
    data.to_netcdf(path)
    back = arviz.from_netcdf(path)
    assert groups_of(back) == groups_of(data)
    for name in ("theta", "mass_function"):
        np.testing.assert_array_equal(back.posterior[name], data.posterior[name])
    assert list(back.posterior["parameter"].values) == ["a", "b", "c"]
    assert back.attrs["box_size"] == 60.0


def test_a_file_from_before_anything_was_watched(tmp_path):
    old = {n: x for n, x in ATTRIBUTES.items() if not n.startswith(("names.", "watched."))}
    shapes = {n: s for n, s in SHAPES.items() if n not in ("modes", "voxels", "mass_function")}
    write(tmp_path / CHAIN_FILE, old, shapes, 7, {})
    data = to_inference_data(tmp_path)
    assert groups_of(data) == {"posterior", "sample_stats"}
    assert set(data.posterior.data_vars) == {"theta", "power"}


def test_columns_of_another_version_have_no_coordinates(tmp_path):
    attributes = {**ATTRIBUTES, "names.other": ["x", "y"]}
    shapes = {**SHAPES, "mass_function": (6,), "acceptance": (1,), "other": (2,)}
    del shapes["step_size"]
    rows = write(tmp_path / CHAIN_FILE, attributes, shapes, 7)
    data = to_inference_data(tmp_path)
    assert data.posterior["mass_function"].dims == ("chain", "draw", "mass_function_dim_0")
    assert data.sample_stats["acceptance_rate"].dims == ("chain", "draw", "acceptance_rate_dim_0")
    assert set(data.sample_stats.data_vars) == {"lp", "acceptance_rate"}
    np.testing.assert_array_equal(data.posterior["other"], rows["other"][WARMUP:].swapaxes(0, 1))


@pytest.mark.parametrize("num_sweeps", [0, WARMUP])
def test_a_run_without_samples_is_refused(tmp_path, num_sweeps):
    write(tmp_path / CHAIN_FILE, num_sweeps=num_sweeps)
    with pytest.raises(ValueError, match=f"`path`.*{num_sweeps} sweeps, 5 of them warm-up"):
        to_inference_data(tmp_path)


def test_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no chain"):
        to_inference_data(tmp_path)


def test_without_arviz_the_error_names_the_extra(folder, rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"npe_tf\[arviz\]"):
        to_inference_data(folder)
