import json

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.catalogue import Catalogue
from npe_tf.comparison import Comparison, HeldOut, ModelFit, dilate, octants, score_held_out, table
from npe_tf.grid import Grid
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.negative_binomial import NegativeBinomialLikelihood
from npe_tf.posterior import PosteriorConfig
from npe_tf.pretraining import pretrain

THRESHOLD = 2e12
GRID = Grid(8, 100.0)
DELTA = np.exp(0.8 * np.random.default_rng(0).standard_normal(GRID.shape) - 0.32) - 1.0
QUICK = {"num_steps": 40, "num_polish": 60, "num_starts": 1}


def fit(name="neyrinck", log_likelihood=-100.0, size=3, held_out=None):
    names = tuple(f"q[{i}]" for i in range(size))
    return ModelFit(name, log_likelihood, (0.5,) * size, names, 50, held_out)


def build(kind="power_law", counts="poisson"):
    options = {"bias": kind, "counts": counts, "dtype": "float64"}
    return PosteriorConfig(GRID.num_cells, THRESHOLD, **options).build_bias()


def haloes(seed=4):
    """Haloes of the power law, in random places of their voxels."""
    bias = build()
    theta = np.array([0.2, 1.0, 0.5, -0.3, 0.4, -0.2, 0.3])
    found = bias.mass_function(tf.constant(DELTA), tf.constant(theta))
    rng = np.random.default_rng(seed)
    counts = rng.poisson(found.integral().numpy() * GRID.cell_volume)
    voxels = np.repeat(np.arange(counts.size), counts.ravel())
    mass = np.maximum(np.exp(found.at(voxels).sample(seed=(seed, 1)).numpy()), THRESHOLD)
    vertex = np.stack(np.unravel_index(voxels, GRID.shape), axis=1)
    inside = rng.uniform(-0.49, 0.49, vertex.shape)
    positions = np.mod((vertex + inside) * GRID.cell_size, GRID.box_size)
    return Catalogue(positions, mass, GRID.box_size), theta


def test_octants_share_the_mesh_among_them():
    masks = octants(6)
    assert masks.shape == (8, 6, 6, 6)
    np.testing.assert_array_equal(masks.sum(axis=0), 1)
    np.testing.assert_array_equal(masks.sum(axis=(1, 2, 3)), 27)
    assert masks[5, 4, 1, 3]
    with pytest.raises(ValueError, match="argument `num_cells`"):
        octants(5)


@pytest.mark.parametrize(
    ("counts", "likelihood_class"),
    [("poisson", PoissonLikelihood), ("negative_binomial_power", NegativeBinomialLikelihood)],
)
def test_likelihoods_of_the_parts_add_up_to_that_of_the_box(monkeypatch, counts, likelihood_class):
    """Voxels are independent once the parameters are given."""
    catalogue, theta = haloes()
    bias = build(counts=counts)
    theta = np.append(theta, [0.4, -0.3][: bias.parameters.size - theta.size])
    seen = []

    def fixed(bias, likelihood, delta, **options):
        seen.append(likelihood.num_haloes)
        return type("Fitted", (), {"theta": theta})

    monkeypatch.setattr("npe_tf.comparison.pretrain", fixed)
    found = score_held_out(
        bias, GRID, catalogue, THRESHOLD, DELTA, likelihood_class=likelihood_class
    )
    whole = likelihood_class(GRID, catalogue, THRESHOLD)
    expected = float(whole(bias.mass_function(tf.constant(DELTA), tf.constant(theta))))
    np.testing.assert_allclose(sum(found.log_likelihood), expected, rtol=1e-10)
    assert sum(found.num_haloes) == len(catalogue)
    assert [a + b for a, b in zip(seen, found.num_haloes, strict=True)] == [len(catalogue)] * 8


def test_hidden_haloes_do_not_reach_the_fit():
    """Other haloes in the hidden octant leave the parameters as they are."""
    first, _ = haloes(seed=4)
    octant = octants(GRID.num_cells)[3]
    other, _ = haloes(seed=9)
    visible = ~octant.ravel()[first.voxel_index(GRID.num_cells)]
    fresh = octant.ravel()[other.voxel_index(GRID.num_cells)]
    mixed = Catalogue(
        np.concatenate([first.positions[visible], other.positions[fresh]]),
        np.concatenate([first.mass[visible], other.mass[fresh]]),
        GRID.box_size,
    )
    parameters, scores = [], []
    for catalogue in (first, mixed):
        bias = build()
        scored = score_held_out(
            bias, GRID, catalogue, THRESHOLD, DELTA, parts=octant[None], **QUICK
        )
        parameters.append(bias.theta.numpy())
        scores.append(scored.log_likelihood[0])
    np.testing.assert_allclose(*parameters, rtol=1e-4, atol=1e-4)
    assert scores[0] != scores[1]


@pytest.mark.parametrize("buffer", [0, 1, 2])
def test_the_buffer_is_as_wide_as_a_kernel_sees(buffer):
    """A part with its buffer is all that a kernel of that radius reaches from it."""
    mask = octants(8)[6]
    reached = np.zeros_like(mask)
    for voxel in np.argwhere(mask):
        for shift in np.ndindex((2 * buffer + 1,) * 3):
            reached[tuple((voxel + np.array(shift) - buffer) % 8)] = True
    np.testing.assert_array_equal(dilate(mask, buffer), reached)


def test_what_is_in_the_buffer_does_not_reach_the_fit(monkeypatch):
    catalogue, theta = haloes()
    seen = []

    def fixed(bias, likelihood, delta, **options):
        seen.append(likelihood)
        return type("Fitted", (), {"theta": theta})

    monkeypatch.setattr("npe_tf.comparison.pretrain", fixed)
    octant = octants(GRID.num_cells)[2]
    scores = [
        score_held_out(
            build(), GRID, catalogue, THRESHOLD, DELTA, parts=octant[None], buffer=buffer
        )
        for buffer in (0, 1)
    ]
    # what is scored is the same
    assert scores[0] == scores[1]
    near = dilate(octant, 1).ravel()[catalogue.voxel_index(GRID.num_cells)]
    assert seen[1].num_haloes == np.sum(~near) < seen[0].num_haloes
    # the likelihood of the fit is of those voxels alone
    found = build().mass_function(tf.constant(DELTA), tf.constant(theta))
    expected = seen[0](found) - float(seen[1](found))
    ring = dilate(octant, 1) & ~octant
    between = ring.ravel()[catalogue.voxel_index(GRID.num_cells)]
    kept = Catalogue(catalogue.positions[between], catalogue.mass[between], catalogue.box_size)
    of_ring = PoissonLikelihood(GRID, kept, THRESHOLD, completeness=ring)
    np.testing.assert_allclose(float(of_ring(found)), float(expected), rtol=1e-9)


@pytest.mark.parametrize("buffer", [-1, 1.0, True, 2])
def test_a_bad_buffer_is_named(buffer):
    """Of an octant of 4^3 cells a buffer of two leaves nothing on 8^3."""
    catalogue, _ = haloes()
    with pytest.raises(ValueError, match="argument `buffer`"):
        score_held_out(build(), GRID, catalogue, THRESHOLD, DELTA, buffer=buffer)


@pytest.mark.slow
def test_the_true_model_wins_on_hidden_haloes():
    catalogue, _ = haloes()
    parts = octants(GRID.num_cells)[:3]
    power_law, linear = (
        score_held_out(build(kind), GRID, catalogue, THRESHOLD, DELTA, parts=parts, **QUICK)
        for kind in ("power_law", "linear")
    )
    assert power_law.gain(linear)[0] > 1.0


@pytest.mark.slow
def test_a_compiled_fit_is_the_same_fit():
    catalogue, _ = haloes()
    likelihood = PoissonLikelihood(GRID, catalogue, THRESHOLD)
    plain, compiled = (
        pretrain(
            build(), likelihood, DELTA, num_steps=0, num_polish=60, num_starts=1, jit_compile=jit
        )
        for jit in (False, True)
    )
    np.testing.assert_allclose(compiled.log_likelihood, plain.log_likelihood, atol=0.1)


def test_parts_of_another_mesh_are_refused():
    catalogue, _ = haloes()
    with pytest.raises(ValueError, match="argument `parts`"):
        score_held_out(build(), GRID, catalogue, THRESHOLD, DELTA, parts=octants(6))


def test_mean_and_error_of_a_gain():
    ours = HeldOut((-1.0, -2.0, -6.0), (5, 5, 6))
    theirs = HeldOut((-2.0, -4.0, -9.0), (5, 5, 6))
    assert ours.mean == -3.0
    np.testing.assert_allclose(ours.standard_error, np.sqrt(7.0 / 3.0))
    np.testing.assert_allclose(ours.gain(theirs), (2.0, np.sqrt(1.0 / 3.0)))
    with pytest.raises(ValueError, match="argument `other`"):
        ours.gain(HeldOut((-2.0, -4.0, -9.0), (5, 6, 5)))


def test_information_criteria():
    assert fit().aic == 206.0
    np.testing.assert_allclose(fit().bic, 200.0 + 3.0 * np.log(50.0))


def test_numbers_and_table():
    held = [HeldOut((-1.0, -2.0), (5, 5)), HeldOut((-4.0, -4.0), (5, 5))]
    comparison = Comparison(
        (fit(held_out=held[1]), fit("neural", -90.0, 5, held[0])), reference="neyrinck"
    )
    numbers = json.loads(json.dumps(comparison.to_dict()))
    ours = numbers["models"][1]
    assert ours["gain"] == 10.0
    assert ours["num_parameters"] == 5
    assert ours["held_out"]["gain"] == 2.5
    assert ours["held_out"]["gain_standard_error"] == 0.5
    rows = table(comparison).splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["neural", "neyrinck"]
    assert "2.5 ± 0.5" in rows[2]
    assert table(Comparison((fit(),), "neyrinck")).splitlines()[2].endswith("|  |  |")
    with pytest.raises(ValueError, match="argument `reference`"):
        Comparison((fit(),), "neural")
