"""Friends-of-friends against a loop over all pairs, and haloes against hand calculation."""

import builtins

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npe_tf import friends_of_friends as module
from npe_tf.friends_of_friends import find_haloes, friends_of_friends, warren_number
from tests.npe_tf import reference

BOX = 10.0


def clustered(seed, num_clumps=12, per_clump=20, num_lone=60):
    """Clumps all over the box, some across its edges, and lone particles [P, 3]."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, BOX, (num_clumps, 1, 3))
    centres[0], centres[1, :, 0] = 0.0, 0.0
    clumps = centres + 0.25 * rng.standard_normal((num_clumps, per_clump, 3))
    lone = rng.uniform(0, BOX, (num_lone, 3))
    return np.concatenate([clumps.reshape(-1, 3), lone]) % BOX


def smallest(labels):
    """Smallest index of each particle's group."""
    first = {}
    return [first.setdefault(label, index) for index, label in enumerate(labels)]


@pytest.mark.parametrize("at_once", [1_000_000, 100, 7])
@pytest.mark.parametrize("length", [0.1, 0.35, 0.8])
def test_groups_are_those_of_a_loop_over_all_pairs(monkeypatch, at_once, length):
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    positions = clustered(0)
    expected = reference.friends_of_friends(positions, BOX, length)
    found = smallest(friends_of_friends(positions, BOX, length))
    assert found == expected
    assert 1 < len(set(expected)) < len(positions)


def test_a_group_reaches_across_an_edge():
    positions = np.array([[9.9, 0.05, 5.0], [0.1, 9.95, 5.0], [5.0, 5.0, 5.0]])
    labels = friends_of_friends(positions, BOX, 0.25)
    assert labels[0] == labels[1] != labels[2]


def test_friends_are_no_farther_than_the_length():
    for apart, groups in ((0.5, 1), (0.5 + 1e-9, 2)):
        line = np.array([[1.0, 1.0, 1.0], [1.25, 1.0, 1.0], [1.25 + apart, 1.0, 1.0]])
        assert len(set(friends_of_friends(line, BOX, 0.5))) == groups


def test_one_particle_between_two_groups_joins_them():
    rng = np.random.default_rng(1)
    groups = [[3.0, 5.0, 5.0], [5.0, 5.0, 5.0]] + 0.1 * rng.uniform(-1, 1, (20, 2, 3))
    both = groups.swapaxes(0, 1).reshape(-1, 3)
    assert len(set(friends_of_friends(both, BOX, 1.2))) == 2
    bridge = np.vstack([both, [[4.0, 5.0, 5.0]]])
    assert len(set(friends_of_friends(bridge, BOX, 1.2))) == 1


def test_haloes_are_means_of_their_particles():
    offsets = np.array([[-0.2, 0, 0], [0.1, 0.1, 0], [0.1, -0.1, 0.3], [0.0, 0.0, 0.1]])
    halo = (np.array([9.95, 0.0, 5.0]) + offsets) % BOX
    lone = np.array([[3.0, 3.0, 3.0], [7.0, 3.0, 3.0]])
    velocities = np.arange(18.0).reshape(6, 3)
    found = find_haloes(
        np.vstack([halo, lone]), BOX, 2e10, velocities, linking_length=0.1, min_particles=3
    )
    # 0.1 of the mean separation of six particles is 0.55
    np.testing.assert_array_equal(found.num_particles, [4])
    np.testing.assert_allclose(found.positions, [[9.95, 0.0, 5.1]], atol=1e-12)
    np.testing.assert_allclose(found.velocities, [velocities[:4].mean(axis=0)])
    np.testing.assert_allclose(found.mass, [8e10])


def test_a_halo_of_nearly_half_the_box_across_the_edge_is_where_it_is():
    line = np.column_stack([np.arange(7.0, 11.6, 0.1) % BOX, np.full(46, 0.0), np.full(46, 9.0)])
    found = find_haloes(line, BOX, 1.0, linking_length=0.1, min_particles=20)
    np.testing.assert_allclose(found.positions, [[9.25, 0.0, 9.0]], atol=1e-9)


@pytest.mark.parametrize("min_particles", [1, 2, 20, 21, 10_000])
def test_only_groups_of_so_many_particles_are_haloes(min_particles):
    positions = clustered(2)
    length = 0.05
    found = find_haloes(positions, BOX, 3.0, linking_length=length, min_particles=min_particles)
    absolute = length * BOX / len(positions) ** (1 / 3)
    sizes = np.unique(reference.friends_of_friends(positions, BOX, absolute), return_counts=True)[1]
    expected = np.sort(sizes[sizes >= min_particles])[::-1]
    np.testing.assert_array_equal(found.num_particles, expected)
    np.testing.assert_allclose(found.mass, 3.0 * expected)
    assert found.positions.shape == (len(expected), 3)
    assert found.velocities is None


def test_mass_is_conserved_if_all_groups_are_haloes():
    positions = clustered(3)
    found = find_haloes(positions, BOX, 7.0, min_particles=1)
    assert found.num_particles.sum() == len(positions)
    assert found.mass.sum() == pytest.approx(7.0 * len(positions))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shift=st.lists(st.floats(-30, 30), min_size=3, max_size=3),
    order=st.randoms(use_true_random=False),
)
def test_neither_the_origin_nor_the_order_matters(seed, shift, order):
    positions = clustered(seed)
    velocities = np.random.default_rng(seed).standard_normal(positions.shape)
    there = find_haloes(positions, BOX, 1.0, velocities, min_particles=5)
    shuffled = list(range(len(positions)))
    order.shuffle(shuffled)
    moved = (positions + shift)[shuffled]
    here = find_haloes(moved, BOX, 1.0, velocities[shuffled], min_particles=5)
    np.testing.assert_array_equal(there.num_particles, here.num_particles)
    assert ((here.positions >= 0) & (here.positions < BOX)).all()
    # haloes of one size come in the order of their particles
    apart = here.positions[:, None] - (there.positions + shift)[None]
    apart -= BOX * np.round(apart / BOX)
    match = np.argmin(np.sum(apart**2, axis=-1), axis=1)
    assert sorted(match) == list(range(len(match)))
    np.testing.assert_allclose(apart[np.arange(len(match)), match], 0.0, atol=1e-9)
    np.testing.assert_allclose(here.velocities, there.velocities[match], atol=1e-12)


def test_the_correction_of_warren():
    # 32^-0.6 is an eighth
    np.testing.assert_allclose(warren_number([32.0, 1e10]), [28.0, 1e10 * (1 - 1e-6)])
    positions = np.full((32, 3), 5.0)
    found = find_haloes(positions, BOX, 2.0, warren_correction=True)
    np.testing.assert_allclose(found.mass, [56.0])
    np.testing.assert_array_equal(found.num_particles, [32])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"positions": np.zeros((5, 2))}, "`positions`.*shape"),
        ({"positions": np.zeros((0, 3))}, "`positions`.*shape"),
        ({"positions": np.full((5, 3), np.nan)}, "`positions`.*finite.*5"),
        ({"box_size": 0.0}, "`box_size`"),
        ({"linking_length": 0.0}, "`linking_length`"),
        ({"linking_length": 5.0}, "`linking_length`.*half"),
        ({"linking_length": np.nan}, "`linking_length`"),
        ({"min_particles": 0}, "`min_particles`"),
        ({"min_particles": 2.5}, "`min_particles`"),
        ({"particle_mass": -1.0}, "`particle_mass`"),
        ({"velocities": np.zeros((4, 3))}, "`velocities`.*shape"),
    ],
)
def test_arguments_out_of_range(change, complaint):
    arguments = {"positions": np.full((5, 3), 1.0), "box_size": BOX, "particle_mass": 1.0}
    with pytest.raises(ValueError, match=complaint):
        find_haloes(**{**arguments, **change})


def test_without_scipy_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"npe_tf\[simulate\]"):
        find_haloes(clustered(0), BOX, 1.0)
