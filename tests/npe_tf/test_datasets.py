import numpy as np
import pytest

from npe_tf import datasets
from npe_tf.catalogue import Catalogue
from npe_tf.cosmology import Cosmology
from npe_tf.datasets import load_nbody_box, nbody_box_path


@pytest.fixture(scope="module")
def box():
    return load_nbody_box()


def test_the_haloes(box):
    assert isinstance(box.catalogue, Catalogue)
    assert len(box.catalogue) == 38_629
    assert len(box.catalogue.above(2e12)) == 31_967
    assert box.box_size == box.catalogue.box_size == 250.0
    # friends of friends with at least 20 particles; the file keeps masses in float32
    particle_mass = box.attributes["particle_mass"]
    np.testing.assert_allclose(box.catalogue.mass.min(), 20 * particle_mass, rtol=1e-6)


def test_the_fields(box):
    for field in (box.delta_linear, box.delta_final):
        assert field.shape == (box.num_cells,) * 3 == (64, 64, 64)
        assert field.dtype == np.float32
        assert abs(field.mean(dtype=np.float64)) < 1e-6
    assert box.delta_final.min() >= -1.0


def test_the_particle_mass_follows_from_the_cosmology(box):
    # mean density: 2.775e11 h^2 Msun/Mpc^3 times Omega_m
    mean_density = 2.77536627e11 * box.cosmology["Omega_m"]
    expected = mean_density * (box.box_size / box.attributes["particles"]) ** 3
    np.testing.assert_allclose(box.attributes["particle_mass"], expected, rtol=1e-3)


def test_the_parameters_make_a_cosmology(box):
    assert Cosmology(**box.cosmology) == Cosmology()
    assert box.scale_factor == 1.0


def test_haloes_sit_where_the_final_density_is_high(box):
    """Axes, origin and vertex convention of haloes and fields agree: no other fits half as well."""

    def correlation(mass):
        return np.corrcoef(mass.ravel(), box.delta_final.ravel())[0, 1]

    haloes = box.catalogue
    mass = np.bincount(haloes.voxel_index(64), weights=haloes.mass, minlength=64**3)
    mass = mass.reshape(64, 64, 64)
    others = [np.roll(mass, shift, axis) for shift in (-1, 1) for axis in range(3)]
    others += [mass.transpose(axes) for axes in [(0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0)]]
    centred = np.zeros_like(mass)  # mesh values in the middle of their cells instead
    cell = np.floor(haloes.positions / (haloes.box_size / 64)).astype(int)
    np.add.at(centred, tuple(cell.T), haloes.mass)
    assert max(map(correlation, [*others, centred])) < 0.5 * correlation(mass)


def test_the_linear_field_is_the_final_one_on_large_scales(box):
    linear, final = (np.fft.fftn(d) for d in (box.delta_linear, box.delta_final))
    n = np.fft.fftfreq(64, 1 / 64)
    large = np.sqrt(n[:, None, None] ** 2 + n[:, None] ** 2 + n**2)
    large = (large > 0) & (large <= 2)
    cross = np.vdot(linear[large], final[large]).real
    norm = np.linalg.norm(linear[large]) * np.linalg.norm(final[large])
    assert cross / norm > 0.99
    assert 0.9 < cross / np.linalg.norm(linear[large]) ** 2 < 1.1


def test_the_path_is_a_file_that_anybody_may_read():
    path = nbody_box_path()
    assert path.is_file()
    assert path.stat().st_mode & 0o444 == 0o444
    assert len(Catalogue.read_hdf5(path)) == 38_629


def test_an_installation_without_data(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="shipped simulation"):
        load_nbody_box()
