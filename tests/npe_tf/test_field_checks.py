import numpy as np
import pytest

from npe_tf.field_checks import check_fields
from npe_tf.grid import Grid

GRID = Grid(8, 100.0)
NUM_SHELLS = 2


def posterior_samples(rng, spread=0.5, count=400):
    """A truth, and samples of a posterior that knows it as well as it says.

    Truth and samples are exchangeable: each is sqrt(1 - spread^2) times the same white noise, plus
    spread times one of its own.
    """
    common = np.sqrt(1.0 - spread**2) * rng.standard_normal(GRID.shape)
    fields = common + spread * rng.standard_normal((count + 1, *GRID.shape))
    return fields[0], fields[1:]


def test_shells_hold_every_live_number_once():
    checks = check_fields(np.ones((2, 8, 8, 8)), GRID, num_shells=NUM_SHELLS)
    assert checks.num_numbers.sum() == 7**3 - 1


def test_draws_of_the_prior_have_its_power():
    rng = np.random.default_rng(0)
    checks = check_fields(rng.standard_normal((2000, 8, 8, 8)), GRID, num_shells=NUM_SHELLS)
    # the mean over 2,000 independent draws departs 45 times less than one draw does
    np.testing.assert_allclose(checks.departure, 0.0, atol=0.1)
    np.testing.assert_allclose(checks.power_sd, np.sqrt(2.0 / checks.num_numbers), rtol=0.1)


def test_a_field_of_too_much_power_departs():
    rng = np.random.default_rng(1)
    checks = check_fields(1.5 * rng.standard_normal((10, 8, 8, 8)), GRID, num_shells=NUM_SHELLS)
    np.testing.assert_allclose(checks.power, 2.25, rtol=0.15)
    assert np.all(checks.departure > 5)
    assert checks.chi_squared > 50


def test_a_posterior_that_is_right_covers_the_truth():
    truth, samples = posterior_samples(np.random.default_rng(2))
    checks = check_fields(samples, GRID, truth, NUM_SHELLS)
    for expected, found in ((0.683, checks.inside_68), (0.95, checks.inside_95)):
        error = np.sqrt(expected * (1 - expected) / checks.num_numbers)
        assert np.all(np.abs(found - expected) < 3.5 * error)
    np.testing.assert_allclose(checks.correlation, np.sqrt(0.75), atol=0.12)


def test_a_posterior_too_sure_of_itself_does_not():
    truth, samples = posterior_samples(np.random.default_rng(3))
    narrow = samples.mean(axis=0) + 0.3 * (samples - samples.mean(axis=0))
    checks = check_fields(narrow, GRID, truth, NUM_SHELLS)
    assert np.all(checks.inside_68 < 0.4)


def test_the_table_has_a_line_per_shell():
    truth, samples = posterior_samples(np.random.default_rng(4), count=4)
    assert check_fields(samples, GRID, truth, NUM_SHELLS).table().count("\n") == NUM_SHELLS
    assert "r(k)" not in check_fields(samples, GRID, None, NUM_SHELLS).table()


@pytest.mark.parametrize("samples", [[np.zeros((8, 8, 8))], [np.zeros((4, 4, 4))] * 2])
def test_too_few_or_of_another_mesh_are_refused(samples):
    with pytest.raises(ValueError, match="`samples`"):
        check_fields(samples, GRID)
