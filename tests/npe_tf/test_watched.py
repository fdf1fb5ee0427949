"""What is watched beside parameters and spectra, against its definitions written out."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import norm

from npe_tf.catalogue import Catalogue
from npe_tf.grid import Grid
from npe_tf.posterior import PosteriorConfig
from npe_tf.watched import ENVIRONMENTS, Watched, _spread_voxels, _spread_wavevectors, _weights
from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue

PADDINGS = ["periodic", "valid"]


@pytest.fixture(scope="module")
def mock():
    return draw_catalogue()


@pytest.fixture(scope="module", params=PADDINGS)
def posterior(request, mock):
    config = PosteriorConfig(8, MASS_THRESHOLD, padding=request.param, dtype="float64")
    return config.build(mock[0])


@pytest.fixture(scope="module")
def watched(posterior):
    return Watched(posterior)


def phase(wavevector, num_cells):
    x = np.indices((num_cells,) * 3)
    return 2.0 * np.pi * np.tensordot(wavevector, x, axes=1) / num_cells


def test_modes_are_coefficients_of_orthonormal_waves(watched, mock):
    for number, wavevector in enumerate(watched.wavevectors):
        for wave, part, value in ((np.cos, 0, 1.0), (np.sin, 1, -1.0)):
            noise = np.sqrt(2.0 / 8**3) * wave(phase(wavevector, 8))
            assert np.sum(noise**2) == pytest.approx(1.0)
            expected = np.zeros(2 * len(watched.wavevectors))
            expected[2 * number + part] = value
            found = watched(noise, mock[2])["modes"]
            np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(("num_cells", "count"), [(4, 13), (6, 16), (8, 16), (16, 16), (32, 16)])
def test_modes_are_free_and_spread_over_all_scales(num_cells, count):
    grid = Grid(num_cells, 100.0)
    vectors = _spread_wavevectors(grid)
    assert vectors.shape == (count, 3)
    # neither a mode nor its mirror image twice
    assert len({tuple(v) for v in [*vectors, *-vectors]}) == 2 * count
    assert np.all(grid.alive[tuple((vectors % num_cells).T)])
    length = np.linalg.norm(vectors, axis=1)
    assert np.all(np.diff(length) >= 0)
    assert length[0] == 1.0
    assert length[-1] > 0.8 * num_cells / 2
    if num_cells == 32:
        per_octave = np.histogram(np.log2(length), bins=[0, 1, 2, 3, 4])[0]
        assert np.all(per_octave >= 2)
        # not along the axes alone
        assert np.all(np.count_nonzero(vectors, axis=0) > 8)


def test_voxels_are_those_of_the_evolved_density(watched, posterior, mock):
    delta = posterior.density(mock[1]).numpy()
    found = watched(mock[1], mock[2])["voxels"]
    expected = [np.log(1.1 + delta[x, y, z]) for x, y, z in watched.voxels]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_voxels_have_many_some_and_no_haloes(watched, posterior):
    counts = np.zeros((8, 8, 8), int)
    margin = (8 - posterior.likelihood.shape[0]) // 2
    inside = slice(margin, 8 - margin)
    counts[inside, inside, inside] = posterior.likelihood.counts
    at = counts[tuple(watched.voxels.T)]
    assert len({tuple(v) for v in watched.voxels}) == 16
    np.testing.assert_array_equal(at[:6], np.sort(counts.ravel())[::-1][:6])
    assert np.all(at[6:11] > 0)
    assert np.all(at[11:] == 0)
    assert np.all((watched.voxels >= margin) & (watched.voxels < 8 - margin))
    for name, (x, y, z), count in zip(watched.names["voxels"], watched.voxels, at, strict=True):
        assert name.startswith(f"voxel ({x},{y},{z}), {count} halo")


@pytest.mark.parametrize(
    ("counts", "occupied"),
    [
        (np.eye(1, 64, 9).reshape(4, 4, 4), 1),
        (np.ones((4, 4, 4)), 16),
        (np.arange(64).reshape(4, 4, 4) % 8, 11),
        (np.arange(8).reshape(2, 2, 2), 7),
        (np.array([[[3]]]), 1),
    ],
    ids=["one halo", "haloes everywhere", "enough of all", "eight voxels", "one voxel"],
)
def test_kinds_of_voxels_make_up_for_each_other(counts, occupied):
    chosen = _spread_voxels(counts.astype(int))
    assert len({tuple(v) for v in chosen}) == len(chosen) == min(16, counts.size)
    assert np.count_nonzero(counts[tuple(chosen.T)]) == occupied


def naive_mass_function(posterior, white_noise, theta, masses):
    """Weighted means over voxels, one voxel after the other."""
    delta = posterior.density(white_noise)
    mixture = posterior.bias.mass_function(delta, tf.constant(theta))
    log_amplitude = mixture.log_amplitude.numpy()
    mean, scale = mixture.mean_log_mass.numpy(), mixture.scale.numpy()
    density = posterior.likelihood.interior(delta)
    result = np.zeros((len(ENVIRONMENTS), len(masses)))
    for e, centre in enumerate(ENVIRONMENTS):
        for m, mass in enumerate(masses):
            total = weight = 0.0
            for voxel in np.ndindex(density.shape):
                distance = np.log(1.1 + density[voxel]) - np.log(centre + 0.1)
                w = np.exp(-0.5 * (distance / 0.3) ** 2)
                amplitude = np.exp(log_amplitude[voxel])
                components = norm.pdf(np.log(mass), mean[voxel], scale[voxel])
                total += w * np.sum(amplitude * components)
                weight += w
            result[e, m] = np.log(total / weight)
    return result


def test_mass_function_is_the_weighted_mean_over_voxels(watched, posterior, mock):
    found = watched(mock[1], mock[2])["mass_function"]
    expected = naive_mass_function(posterior, mock[1], mock[2], watched.masses)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # haloes prefer dense places
    assert np.all(np.diff(found, axis=0) > 0)


def test_masses_start_at_the_threshold_and_leave_few_haloes_above(watched, posterior):
    assert watched.masses[0] == MASS_THRESHOLD
    above = np.mean(posterior.likelihood.log_masses > np.log(watched.masses[-1]))
    assert above == pytest.approx(0.01, abs=1.0 / posterior.likelihood.num_haloes)
    np.testing.assert_allclose(np.diff(np.log(watched.masses), 2), 0.0, atol=1e-9)


def test_there_is_a_number_where_no_voxel_is(watched, mock):
    uniform = watched(np.zeros((8, 8, 8)), mock[2])["mass_function"]
    # all environments are the same one
    np.testing.assert_allclose(uniform, np.broadcast_to(uniform[0], uniform.shape), rtol=1e-9)
    for noise, theta in ((30.0 * mock[1], mock[2]), (mock[1], 20.0 * mock[2])):
        assert all(np.all(np.isfinite(value)) for value in watched(noise, theta).values())


def test_no_weight_vanishes():
    weights = _weights(tf.constant([-2.3, 0.0, 30.0], tf.float64), 0.25).numpy()
    assert np.all(weights > 0)
    assert weights.sum() == pytest.approx(1.0)


def test_each_array_feels_what_it_should(watched, mock):
    first = watched(mock[1], mock[2])
    other_theta = watched(mock[1], mock[2] + 0.01)
    other_noise = watched(1.01 * mock[1], mock[2])
    for name in ("modes", "voxels"):
        np.testing.assert_array_equal(first[name], other_theta[name])
        assert np.all(first[name] != other_noise[name])
    assert np.all(first["mass_function"] != other_theta["mass_function"])
    assert np.all(first["mass_function"] != other_noise["mass_function"])


def test_names_shapes_and_attributes_belong_together(watched, mock):
    found = watched(mock[1], mock[2])
    assert found.keys() == watched.shapes.keys() == watched.names.keys()
    for name, value in found.items():
        assert value.dtype == np.float64
        assert value.shape == watched.shapes[name]
        assert len(set(watched.names[name])) == value.size
        assert watched.attributes[f"names.{name}"] == list(watched.names[name])
    x, y, z = watched.wavevectors[3]
    k = 2.0 * np.pi / 60.0 * np.sqrt(x * x + y * y + z * z)
    assert watched.names["modes"][7] == f"mode k={k:.3g} ({x},{y},{z}) im"
    assert watched.names["mass_function"][5] == "log dn/dlogM(2e+12 | 1+delta=0.6)"


def test_the_choice_is_that_of_mesh_and_catalogue(watched, posterior, mock):
    again = Watched(posterior)
    assert again.names == watched.names
    other = PosteriorConfig(8, MASS_THRESHOLD).build(
        Catalogue(np.full((1, 3), 30.0), np.array([3e12]), 60.0)
    )
    different = Watched(other)
    np.testing.assert_array_equal(different.wavevectors, watched.wavevectors)
    assert different.names["voxels"] != watched.names["voxels"]
    assert np.all(np.isfinite(different(mock[1], mock[2])["mass_function"]))


def test_single_precision_agrees_and_is_traced_once(mock):
    double, single = (
        Watched(PosteriorConfig(8, MASS_THRESHOLD, dtype=dtype).build(mock[0]))
        for dtype in ("float64", "float32")
    )
    theta = mock[2].astype(np.float32)
    expected = double(mock[1], theta)
    for noise, parameters in ((mock[1], mock[2]), (tf.constant(mock[1], tf.float32), theta)):
        for name, value in single(noise, parameters).items():
            np.testing.assert_allclose(value, expected[name], atol=2e-4)
    assert single._evaluate.experimental_get_tracing_count() == 1


def test_wrong_shapes_are_refused(watched, mock):
    with pytest.raises(ValueError, match=r"`white_noise`.*\(8, 8, 8\).*\(8, 8\)"):
        watched(mock[1][0], mock[2])
    with pytest.raises(ValueError, match=r"`theta`.*\(17,\).*\(16,\)"):
        watched(mock[1], mock[2][:16])
