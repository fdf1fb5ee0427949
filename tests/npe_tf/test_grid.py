import numpy as np
import pytest

from npe_tf.grid import Grid


@pytest.mark.parametrize("num_cells", [3, 7, 2, 0, -8, 8.5, "8", True])
def test_odd_or_tiny_mesh_is_refused(num_cells):
    with pytest.raises(ValueError, match="`num_cells`.*Received: num_cells="):
        Grid(num_cells, 100.0)


@pytest.mark.parametrize("box_size", [0.0, -1.0, np.nan, np.inf, "wide", None])
def test_unphysical_box_is_refused(box_size):
    with pytest.raises(ValueError, match="`box_size`.*Received: box_size="):
        Grid(8, box_size)


def test_wavenumbers_by_explicit_index_arithmetic():
    grid = Grid(6, 12.0)
    for i, j, k in np.ndindex(grid.modes_shape):
        signed = [n - 6 if n > 3 else n for n in (i, j, k)]
        expected = 2 * np.pi / 12.0 * np.sqrt(sum(n**2 for n in signed))
        np.testing.assert_allclose(grid.wavenumber[i, j, k], expected, atol=1e-14)
        assert grid.alive[i, j, k] == (any((i, j, k)) and 3 not in (i, j, k))


def test_every_mode_has_one_shell_and_weights_count_the_full_transform():
    grid = Grid(8, 100.0)
    assert np.sum(grid.hermitian_weight * np.ones(grid.modes_shape)) == 8**3
    shells = grid.shells()
    assert shells.min() == 0
    assert shells.max() == 3
    # |k|/k_f in [n + 1/2, n + 3/2) is shell n
    ratio = grid.wavenumber / grid.fundamental
    inner = (ratio >= 1.5) & (ratio < 2.5)
    assert np.all(shells[inner] == 1)


def test_shell_mean_of_a_constant():
    grid = Grid(8, 100.0)
    np.testing.assert_allclose(grid.shell_mean(np.full((2, *grid.modes_shape), 3.0)), 3.0)


def test_too_many_shells_are_refused():
    with pytest.raises(ValueError, match="`num_shells`"):
        Grid(8, 1.0).shells(9)
