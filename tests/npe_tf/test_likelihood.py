import math

import numpy as np
import pytest
from scipy import ndimage

from npe_tf.catalogue import Catalogue
from npe_tf.grid import Grid
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.mass_function import HaloMassFunction
from tests.npe_tf import reference

THRESHOLD = 2e12
GRID = Grid(8, 20.0)


def catalogue(num_haloes=200, seed=0):
    """Haloes anywhere in the box, about a quarter of them below the threshold."""
    rng = np.random.default_rng(seed)
    mass = 0.75 * THRESHOLD * np.exp(rng.exponential(1.0, num_haloes))
    return Catalogue(rng.uniform(0, GRID.box_size, (num_haloes, 3)), mass, GRID.box_size)


def at_vertices(vertices, mass=1e13):
    return Catalogue(np.array(vertices) * GRID.cell_size, [mass] * len(vertices), GRID.box_size)


def mixture(side, seed=1):
    """Amplitude, mean and scale of two components in every voxel."""
    rng = np.random.default_rng(seed)
    shape = (side, side, side, 2)
    return (
        rng.uniform(1e-3, 1e-1, shape),
        rng.uniform(28.0, 30.0, shape),
        rng.uniform(0.5, 1.5, shape),
    )


def mass_function(side, parameterisation="log_mass", dtype=np.float64):
    amplitude, mean, scale = (q.astype(dtype) for q in mixture(side))
    return HaloMassFunction(np.log(amplitude), mean, scale, math.log(THRESHOLD), parameterisation)


def window(seed=2):
    return np.random.default_rng(seed).uniform(0.2, 1.0, GRID.shape)


@pytest.mark.parametrize("completeness", [None, window()], ids=["complete", "incomplete"])
@pytest.mark.parametrize(
    ("padding", "margin"), [("periodic", 0), ("valid", 1), ("valid", 2)], ids=str
)
@pytest.mark.parametrize("parameterisation", ["log_mass", "mass"])
def test_value_by_loops_over_haloes_and_voxels(parameterisation, padding, margin, completeness):
    likelihood = PoissonLikelihood(
        GRID, catalogue(), THRESHOLD, completeness=completeness, padding=padding, margin=margin
    )
    side = GRID.num_cells - 2 * margin
    assert likelihood.shape == (side,) * 3
    expected = reference.poisson_log_likelihood(
        catalogue(),
        mixture(side),
        math.log(THRESHOLD),
        parameterisation,
        np.ones(GRID.shape) if completeness is None else completeness,
        margin,
    )
    value = likelihood(mass_function(side, parameterisation)).numpy()
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_margin_is_ignored_in_a_periodic_box():
    likelihood = PoissonLikelihood(GRID, catalogue(), THRESHOLD, margin=3)
    assert likelihood.shape == GRID.shape
    assert likelihood.num_dropped == 0
    assert likelihood.num_haloes == len(catalogue().above(THRESHOLD))


@pytest.mark.parametrize(("margin", "kept"), [(1, [1, 3, 3, 6]), (2, [3, 3]), (3, [3, 3])])
def test_valid_padding_drops_haloes_outside_the_interior(margin, kept):
    # 7.6 is nearest to vertex 8, which is vertex 0
    along = [0, 1, 3, 3, 6, 7, 7.6]
    haloes = at_vertices([[x, 3, 4] for x in along] + [[3, 3, 7]])
    likelihood = PoissonLikelihood(GRID, haloes, THRESHOLD, padding="valid", margin=margin)
    side = GRID.num_cells - 2 * margin
    x, y, z = np.unravel_index(likelihood.voxels, (side,) * 3)
    np.testing.assert_array_equal(x + margin, kept)
    assert set(y + margin) == {3}
    assert set(z + margin) == {4}
    assert likelihood.num_haloes == len(kept)
    assert likelihood.num_dropped == len(haloes) - len(kept)


def test_haloes_below_the_threshold_are_left_out():
    masses = [THRESHOLD * (1 - 1e-12), THRESHOLD, 5e13]
    haloes = Catalogue(np.full((3, 3), 5.0), masses, GRID.box_size)
    likelihood = PoissonLikelihood(GRID, haloes, THRESHOLD)
    np.testing.assert_array_equal(likelihood.log_masses, np.log(masses[1:]))
    assert likelihood.num_haloes == 2
    assert likelihood.num_dropped == 0


def test_a_halo_at_the_box_size_is_in_voxel_zero():
    haloes = Catalogue([[20.0, 20.0, 20.0], [19.9, 20.0, 2.5]], [1e13, 1e13], 20.0)
    assert PoissonLikelihood(GRID, haloes, THRESHOLD).voxels.tolist() == [0, 1]


def test_counts_are_those_of_the_catalogue():
    likelihood = PoissonLikelihood(GRID, catalogue(), THRESHOLD)
    expected = catalogue().above(THRESHOLD).counts(GRID.num_cells)
    np.testing.assert_array_equal(likelihood.counts, expected)
    inner = PoissonLikelihood(GRID, catalogue(), THRESHOLD, padding="valid", margin=2)
    np.testing.assert_array_equal(inner.counts, expected[2:-2, 2:-2, 2:-2])
    assert inner.num_dropped == expected.sum() - expected[2:-2, 2:-2, 2:-2].sum()


def test_interior():
    field = np.arange(512).reshape(GRID.shape)
    periodic = PoissonLikelihood(GRID, catalogue(), THRESHOLD)
    np.testing.assert_array_equal(periodic.interior(field), field)
    valid = PoissonLikelihood(GRID, catalogue(), THRESHOLD, padding="valid", margin=3)
    np.testing.assert_array_equal(valid.interior(field), field[3:5, 3:5, 3:5])
    assert valid.interior(field).dtype == np.float64


def test_completeness_of_the_voxels_that_count():
    assert np.all(PoissonLikelihood(GRID, catalogue(), THRESHOLD).completeness == 1.0)
    likelihood = PoissonLikelihood(
        GRID, catalogue(), THRESHOLD, completeness=window(), padding="valid"
    )
    np.testing.assert_array_equal(likelihood.completeness, window()[1:-1, 1:-1, 1:-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_expected_counts_are_completeness_times_volume_times_density(dtype):
    likelihood = PoissonLikelihood(
        GRID, catalogue(), THRESHOLD, completeness=window(), padding="valid"
    )
    haloes = mass_function(6, dtype=dtype)
    expected = window()[1:-1, 1:-1, 1:-1] * 2.5**3 * haloes.integral().numpy()
    found = likelihood.expected_counts(haloes).numpy()
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-14 if dtype is np.float64 else 1e-6)


def test_expected_counts_above_a_mass():
    likelihood = PoissonLikelihood(GRID, catalogue(), THRESHOLD, completeness=window())
    haloes, log_mass = mass_function(8), math.log(2 * THRESHOLD)
    expected = window() * 2.5**3 * haloes.integral(log_mass).numpy()
    assert np.all(expected <= likelihood.expected_counts(haloes))
    np.testing.assert_allclose(likelihood.expected_counts(haloes, log_mass), expected, rtol=1e-14)


def test_half_the_completeness_expects_half_the_haloes():
    """log L changes by H log(1/2) and by half of the haloes that were expected."""
    full = PoissonLikelihood(GRID, catalogue(), THRESHOLD, completeness=window())
    half = PoissonLikelihood(GRID, catalogue(), THRESHOLD, completeness=0.5 * window())
    haloes = mass_function(8)
    expected = full.expected_counts(haloes).numpy()
    np.testing.assert_allclose(half.expected_counts(haloes), expected / 2, rtol=1e-14)
    change = full.num_haloes * math.log(0.5) + expected.sum() / 2
    assert abs(change) > 1.0
    np.testing.assert_allclose(half(haloes) - full(haloes), change, rtol=1e-10)


def test_a_completeness_of_one_changes_nothing():
    without = PoissonLikelihood(GRID, catalogue(), THRESHOLD)(mass_function(8))
    ones = PoissonLikelihood(GRID, catalogue(), THRESHOLD, completeness=np.ones(GRID.shape))
    np.testing.assert_allclose(ones(mass_function(8)), without, rtol=1e-14)


def test_float32_terms_are_summed_in_float64():
    haloes = catalogue(100_000)
    likelihood = PoissonLikelihood(GRID, haloes, THRESHOLD)
    single = mass_function(8, dtype=np.float32)
    terms = single.at(likelihood.voxels).log_intensity(likelihood.log_masses.astype(np.float32))
    expected = single.integral().numpy() * np.float32(2.5**3)
    assert terms.dtype == np.float32
    assert likelihood(single).dtype == np.float64
    # a single rounding to float32 would be an error of 6e-8
    value = math.fsum(terms.numpy().astype(float)) - math.fsum(expected.ravel().astype(float))
    np.testing.assert_allclose(likelihood(single), value, rtol=1e-12)


def ranks(values):
    return np.argsort(np.argsort(values.ravel()))


def clustered(num_haloes=150, seed=5):
    """Haloes in an eighth of the box, so that their smoothed number varies."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(3.0, 13.0, (num_haloes, 3))
    return Catalogue(positions, THRESHOLD * np.exp(rng.random(num_haloes)), GRID.box_size)


def company(likelihood):
    """The masses of the haloes of every voxel that has some."""
    groups = {}
    for voxel, log_mass in zip(likelihood.voxels, likelihood.log_masses, strict=True):
        groups.setdefault(int(voxel), []).append(float(log_mass))
    return groups


@pytest.mark.parametrize("padding", ["periodic", "valid"])
@pytest.mark.parametrize("smoothing", [6.0, 8.0])
def test_abundance_matching_is_by_rank(padding, smoothing):
    likelihood = PoissonLikelihood(GRID, clustered(), THRESHOLD, padding=padding)
    delta = np.random.default_rng(6).standard_normal(GRID.shape)
    matched = likelihood.abundance_matched(delta, smoothing)
    smooth = ndimage.gaussian_filter(
        likelihood.counts.astype(float), smoothing / GRID.cell_size, mode="wrap", truncate=8.0
    )
    density = delta if padding == "periodic" else delta[1:-1, 1:-1, 1:-1]
    np.testing.assert_array_equal(ranks(density)[matched.voxels], ranks(smooth)[likelihood.voxels])
    assert sorted(company(matched).values()) == sorted(company(likelihood).values())
    assert np.argmax(density) == matched.voxels[likelihood.voxels == np.argmax(smooth)][0]


def test_abundance_matching_puts_no_halo_where_completeness_is_zero():
    completeness = np.ones(GRID.shape)
    completeness[:, :, 6:] = 0.0
    likelihood = PoissonLikelihood(GRID, clustered(), THRESHOLD, completeness=completeness)
    # the densest voxels are the ones that nobody has seen
    delta = np.random.default_rng(6).standard_normal(GRID.shape) + 10.0 * (completeness == 0)
    matched = likelihood.abundance_matched(delta)
    assert np.all(completeness.ravel()[matched.voxels] == 1.0)
    assert sorted(company(matched).values()) == sorted(company(likelihood).values())
    assert np.any(matched.voxels != likelihood.voxels)


def test_abundance_matching_ranks_by_haloes_per_completeness():
    """Two equal clumps, one of them in a voxel where one halo in ten was found."""
    completeness = np.ones(GRID.shape)
    completeness[:4] = 0.1
    haloes = at_vertices([[1, 4, 4]] * 5 + [[5, 4, 4]] * 6)
    delta = np.random.default_rng(6).standard_normal(GRID.shape)
    plain = PoissonLikelihood(GRID, haloes, THRESHOLD).abundance_matched(delta, 1.0)
    masked = PoissonLikelihood(
        GRID, haloes, THRESHOLD, completeness=completeness
    ).abundance_matched(delta, 1.0)
    dense = delta.ravel()[plain.voxels]
    assert dense[0] < dense[-1]
    dense = delta.ravel()[masked.voxels]
    assert dense[0] > dense[-1]


def test_abundance_matching_moves_the_completeness_with_the_haloes():
    completeness = window()
    likelihood = PoissonLikelihood(GRID, clustered(), THRESHOLD, completeness=completeness)
    matched = likelihood.abundance_matched(np.random.default_rng(8).standard_normal(GRID.shape))
    np.testing.assert_array_equal(
        matched.completeness.ravel()[matched.voxels],
        likelihood.completeness.ravel()[likelihood.voxels],
    )
    np.testing.assert_array_equal(
        np.sort(matched.completeness.ravel()), np.sort(completeness.ravel())
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"delta": np.zeros((10, 10, 10))}, "`field`.*10, 10, 10"),
        ({"delta": np.full(GRID.shape, np.nan)}, "`delta`.*finite"),
        ({"delta": np.zeros(GRID.shape), "smoothing": -1.0}, "`smoothing`"),
        ({"delta": np.zeros(GRID.shape), "smoothing": np.nan}, "`smoothing`"),
    ],
)
def test_abundance_matching_checks_its_arguments(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        PoissonLikelihood(GRID, clustered(), THRESHOLD).abundance_matched(**arguments)


@pytest.mark.parametrize("margin", [-1, 1.0])
def test_bad_margins(margin):
    with pytest.raises(ValueError, match="`margin`"):
        PoissonLikelihood(GRID, clustered(), THRESHOLD, padding="valid", margin=margin)


def test_abundance_matching_leaves_the_original_as_it_was():
    likelihood = PoissonLikelihood(GRID, clustered(), THRESHOLD, completeness=window())
    before = dict(vars(likelihood), voxels=likelihood.voxels.copy())
    matched = likelihood.abundance_matched(np.random.default_rng(6).standard_normal(GRID.shape))
    np.testing.assert_array_equal(likelihood.voxels, before["voxels"])
    assert np.any(matched.voxels != likelihood.voxels)
    for name in set(before) - {"voxels"}:
        assert getattr(likelihood, name) is before[name]
        assert name == "_completeness" or getattr(matched, name) is before[name]


def test_another_box_is_refused():
    with pytest.raises(ValueError, match="`catalogue`.*box_size=20. Received: box_size=21"):
        PoissonLikelihood(GRID, Catalogue([[1.0, 1.0, 1.0]], [1e13], 21.0), THRESHOLD)


@pytest.mark.parametrize("padding", ["same", "", None])
def test_an_unknown_padding_is_refused(padding):
    with pytest.raises(ValueError, match=f"`padding`.*Received: padding={padding!r}"):
        PoissonLikelihood(GRID, catalogue(), THRESHOLD, padding=padding)


def test_a_margin_without_an_interior_is_refused():
    with pytest.raises(ValueError, match="`margin`.*num_cells=8. Received: margin=4"):
        PoissonLikelihood(GRID, catalogue(), THRESHOLD, padding="valid", margin=4)


def test_a_completeness_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"`completeness`.*\(8, 8, 8\).*shape \(6, 6, 6\)"):
        PoissonLikelihood(
            GRID, catalogue(), THRESHOLD, completeness=np.ones((6, 6, 6)), padding="valid"
        )


@pytest.mark.parametrize("value", [-0.1, 1.001, np.nan, np.inf])
def test_a_completeness_out_of_range_is_refused(value):
    completeness = np.ones(GRID.shape)
    completeness[7, 0, 3] = value
    with pytest.raises(ValueError, match=r"`completeness`. Expected values in \[0, 1\]"):
        PoissonLikelihood(GRID, catalogue(), THRESHOLD, completeness=completeness)


def test_haloes_where_completeness_is_zero_are_refused():
    completeness = np.ones(GRID.shape)
    completeness[2, 3, 4] = 0.0
    haloes = at_vertices([[1, 1, 1], [2, 3, 4], [2, 3, 4], [5, 5, 5]])
    with pytest.raises(ValueError, match="`completeness`.*zero at 2 haloes") as error:
        PoissonLikelihood(GRID, haloes, THRESHOLD, completeness=completeness)
    assert "first at position [5.0, 7.5, 10.0]" in str(error.value)


def test_unseen_voxels_without_haloes_are_fine():
    completeness = np.ones(GRID.shape)
    completeness[0] = 0.0
    haloes = at_vertices([[0, 3, 3], [4, 4, 4]])
    likelihood = PoissonLikelihood(
        GRID, haloes, THRESHOLD, completeness=completeness, padding="valid"
    )
    assert np.isfinite(likelihood(mass_function(6)))


def test_no_halo_above_the_threshold_is_refused():
    with pytest.raises(ValueError, match="`mass_threshold`.*Received: mass_threshold=1e"):
        PoissonLikelihood(GRID, catalogue(), 1e20)


def test_no_halo_in_the_interior_is_refused():
    haloes = at_vertices([[0, 3, 3], [3, 7, 3]])
    with pytest.raises(ValueError, match="`catalogue`.*interior.*all 2 haloes within 1 voxels"):
        PoissonLikelihood(GRID, haloes, THRESHOLD, padding="valid")


@pytest.mark.parametrize("side", [6, 9])
def test_a_mass_function_of_another_mesh_is_refused(side):
    with pytest.raises(ValueError, match=rf"`mass_function`.*\(8, 8, 8\).*shape \({side}, "):
        PoissonLikelihood(GRID, catalogue(), THRESHOLD)(mass_function(side))
