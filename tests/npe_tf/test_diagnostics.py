"""Convergence against processes of known correlation."""

from __future__ import annotations

import numpy as np
import pytest

from npe_tf import diagnostics


def autoregressive(rho, num_draws, num_chains, seed):
    """A stationary AR(1) process; n draws are worth n (1 - rho) / (1 + rho)."""
    rng = np.random.default_rng(seed)
    x = np.empty((num_draws, num_chains))
    x[0] = rng.normal(size=num_chains)
    for s in range(1, num_draws):
        x[s] = rho * x[s - 1] + np.sqrt(1 - rho**2) * rng.normal(size=num_chains)
    return x


@pytest.mark.parametrize("num_chains", [1, 4])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.3])
def test_effective_sample_size_of_autoregression(rho, num_chains):
    draws = autoregressive(rho, 20_000, num_chains, 3)
    expected = draws.size * (1 - rho) / (1 + rho)
    ess = diagnostics.effective_sample_size(draws)
    assert ess.shape == ()
    np.testing.assert_allclose(ess, expected, rtol=0.12)


def test_chains_that_disagree_are_worth_little():
    draws = np.random.default_rng(4).normal(size=(1000, 4))
    draws[:, 0] += 5.0
    assert diagnostics.effective_sample_size(draws) < 20
    assert diagnostics.split_rhat(draws) > 1.5


def test_split_rhat_against_naive_formula():
    draws = autoregressive(0.7, 301, 3, 5)[..., None] * [1.0, 1e-3]
    halves = np.concatenate([draws[:150], draws[150:300]], axis=1)
    n, m = halves.shape[:2]
    within = halves.var(0, ddof=1).mean(0)
    between = halves.mean(0).var(0, ddof=1)
    total = (n - 1) / n * within + between
    expected = np.sqrt((m + 1) / m * total / within - (n - 1) / (m * n))
    np.testing.assert_allclose(diagnostics.split_rhat(draws), expected, rtol=1e-10)


def test_split_rhat_of_one_chain_sees_a_drift():
    steady = np.random.default_rng(6).normal(size=(1000, 1))
    assert abs(diagnostics.split_rhat(steady) - 1) < 0.01
    assert diagnostics.split_rhat(steady + np.linspace(0, 4, 1000)[:, None]) > 1.3


@pytest.mark.parametrize("rho", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["normal", "skewed", "tied"])
def test_against_arviz(rho, kind):
    """The same definitions in another code, but for how it ends the sum of autocorrelations."""
    arviz = pytest.importorskip("arviz")
    draws = autoregressive(rho, 2000, 4, 11)
    if kind == "skewed":
        draws = np.exp(3.0 * draws)
    if kind == "tied":  # as after rejections
        draws = np.repeat(draws[::2], 2, axis=0)
    chains = np.ascontiguousarray(draws.T)
    np.testing.assert_allclose(
        diagnostics.rank_normalised_rhat(draws), arviz.rhat(chains), rtol=1e-8
    )
    for diagnose, method in ((diagnostics.bulk_ess, "bulk"), (diagnostics.tail_ess, "tail")):
        np.testing.assert_allclose(diagnose(draws), arviz.ess(chains, method=method), rtol=0.2)


def test_ranks_see_what_moments_do_not():
    rng = np.random.default_rng(12)
    wide = rng.normal(size=(1000, 4)) * [1.0, 1.0, 1.0, 4.0]
    assert diagnostics.split_rhat(wide) < 1.01 < 1.1 < diagnostics.rank_normalised_rhat(wide)
    cauchy = rng.standard_cauchy(size=(1000, 4))
    assert diagnostics.rank_normalised_rhat(cauchy) < 1.01
    shifted = cauchy + [0.0, 0.0, 0.0, 3.0]
    assert diagnostics.rank_normalised_rhat(shifted) > 1.1


def test_a_percentile_that_no_chain_crosses_is_known_badly():
    draws = np.random.default_rng(13).uniform(size=(100, 20)) + 10.0 * np.arange(20)
    # each half of a chain is one draw
    assert diagnostics.tail_ess(draws) < 41.0


def test_unknown_is_nan_and_does_not_spread(caplog):
    draws = np.random.default_rng(7).normal(size=(100, 2, 5))
    draws[..., 1] = 3.0
    draws[4, 0, 2] = np.nan
    draws[:, 0, 3] = 1.0  # one of two chains stands still: bad, but known
    for diagnose in (
        diagnostics.effective_sample_size,
        diagnostics.split_rhat,
        diagnostics.rank_normalised_rhat,
        diagnostics.bulk_ess,
        diagnostics.tail_ess,
    ):
        known = diagnose(draws)
        np.testing.assert_array_equal(np.isnan(known), [False, True, True, False, False])
        np.testing.assert_allclose(known[[0, 4]], diagnose(draws[..., [0, 4]]), rtol=1e-9)
        assert np.isnan(diagnose(draws[:3])).all()
    assert not caplog.records


def test_many_quantities_are_taken_in_blocks(monkeypatch):
    draws = np.random.default_rng(8).normal(size=(50, 2, 3, 4)).astype(np.float32)
    whole = diagnostics.effective_sample_size(draws)
    assert whole.shape == (3, 4)
    monkeypatch.setattr(diagnostics, "_BLOCK", 500)
    np.testing.assert_allclose(diagnostics.effective_sample_size(draws), whole, rtol=1e-9)


@pytest.mark.parametrize("shape", [(10,), (0, 2), (5, 0, 3)])
def test_samples_without_draws_or_chains_are_refused(shape):
    with pytest.raises(ValueError, match="`samples`"):
        diagnostics.split_rhat(np.zeros(shape))


def test_parameter_table():
    draws = np.random.default_rng(9).normal(size=(500, 2, 3)) * [1, 10, 0] + [0, 5, 2]
    rows = diagnostics.parameter_table(draws, ["a", "bias[0, 1]", "c"])
    assert [row.name for row in rows] == ["a", "bias[0, 1]", "c"]
    flat = draws.reshape(-1, 3)
    for index, row in enumerate(rows):
        assert row.mean == pytest.approx(flat[:, index].mean())
        assert row.sd == pytest.approx(flat[:, index].std(ddof=1))
        quantiles = np.percentile(flat[:, index], [5, 50, 95])
        assert [row.q05, row.q50, row.q95] == pytest.approx(list(quantiles))
    assert rows[0].ess == pytest.approx(float(diagnostics.bulk_ess(draws[..., 0])))
    assert rows[0].tail == pytest.approx(float(diagnostics.tail_ess(draws[..., 0])))
    assert rows[1].rhat == pytest.approx(float(diagnostics.rank_normalised_rhat(draws[..., 1])))
    assert np.isnan(rows[2].ess)
    lines = diagnostics.format_table(rows).splitlines()
    header = ["parameter", "mean", "sd", "5%", "50%", "95%", "ESS", "tail", "R-hat"]
    assert lines[0].split() == header
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[3].split() == ["c", "2", "0", "2", "2", "2", "-", "-", "-"]


def test_parameter_table_of_one_draw():
    (row,) = diagnostics.parameter_table(np.ones((1, 1, 1)), ["a"])
    assert row.mean == 1.0
    assert np.isnan([row.sd, row.ess, row.rhat]).all()
    assert diagnostics.format_table([]).split()[0] == "parameter"


def test_parameter_table_refuses_other_names():
    with pytest.raises(ValueError, match="D=2"):
        diagnostics.parameter_table(np.zeros((5, 1, 3)), ["a", "b"])
