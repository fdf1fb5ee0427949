import numpy as np
import pytest

from npe_tf.warmup import StepSize, WarmupPlan


@pytest.mark.parametrize("num_warmup", [2, 3, 10, 50, 200, 1000])
@pytest.mark.parametrize("annealing_start", [0.01, 1.0])
def test_windows_tile_the_warmup(num_warmup, annealing_start):
    plan = WarmupPlan.of(num_warmup, annealing_start)
    assert plan.windows[0] == 0
    assert list(plan.windows) == sorted(set(plan.windows))
    assert plan.annealed in plan.windows
    assert plan.windows[-1] < plan.frozen <= num_warmup
    assert (plan.annealed > 0) == (annealing_start < 1 and num_warmup > 2)


def test_the_likelihood_grows_by_a_constant_factor_to_its_full_power():
    plan = WarmupPlan.of(100, 0.01)
    powers = np.array([plan.inverse_temperature(sweep) for sweep in range(100)])
    assert powers[0] == 0.01
    ratios = powers[1 : plan.annealed] / powers[: plan.annealed - 1]
    np.testing.assert_allclose(ratios, ratios[0])
    assert ratios[0] > 1
    assert np.all(powers[plan.annealed :] == 1.0)


def test_without_annealing_every_sweep_is_at_full_power():
    plan = WarmupPlan.of(100, 1.0)
    assert {plan.inverse_temperature(sweep) for sweep in range(100)} == {1.0}


def test_later_windows_double():
    lengths = np.diff(WarmupPlan.of(2000, 1.0).windows)
    np.testing.assert_array_equal(lengths[1:], 2 * lengths[:-1])


@pytest.mark.parametrize("target", [0.6, 0.8])
def test_the_step_size_finds_its_acceptance(target):
    """Acceptance of a Gaussian in many dimensions falls like erfc of the squared step."""
    rng = np.random.default_rng(1)

    def acceptance(step):
        return np.exp(-((step / 0.3) ** 2))

    adaptation, step = StepSize(0.01), 0.01
    for _ in range(400):
        step = adaptation.update(float(rng.random() < acceptance(step)), target)
    np.testing.assert_allclose(acceptance(adaptation.average), target, atol=0.07)


def test_before_the_first_update_the_average_is_the_centre():
    assert StepSize(0.3).average == 0.3


def test_a_saved_step_size_goes_on_the_same():
    one = StepSize(0.1)
    for acceptance in (0.2, 0.9, 0.5):
        one.update(acceptance, 0.7)
    other = StepSize.from_array(one.to_array())
    assert other.update(0.4, 0.7) == one.update(0.4, 0.7)
    assert other.average == one.average
