"""Spectra against a double loop over modes; convergence against processes of known correlation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from npe_tf import diagnostics
from npe_tf.grid import Grid

GRID = Grid(8, 50.0)


def naive_shells(first, second, grid, num_shells):
    """Mean cross power and number of modes per shell, mode by mode over the full transform."""
    n = grid.num_cells
    a, b = np.fft.fftn(first), np.fft.fftn(second)
    power, wavenumber, count = np.zeros(num_shells), np.zeros(num_shells), np.zeros(num_shells)
    for index in itertools.product(range(n), repeat=3):
        f = [i if i <= n // 2 else i - n for i in index]
        if n // 2 in f or f == [0, 0, 0]:
            continue
        length = np.sqrt(sum(x * x for x in f))
        shell = min(num_shells - 1, max(0, int((length - 0.5) // (n / 2 / num_shells))))
        power[shell] += (a[index] * np.conj(b[index])).real * grid.box_size**3 / n**6
        wavenumber[shell] += length * 2 * np.pi / grid.box_size
        count[shell] += 1
    with np.errstate(invalid="ignore"):
        return wavenumber / count, power / count, count


@pytest.mark.parametrize("num_shells", [None, 1, 3, 8])
def test_spectra_against_naive_loop(num_shells):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, *GRID.shape))
    count = num_shells or GRID.num_cells // 2
    k, p_ab, modes = naive_shells(a, b, GRID, count)
    p_aa, p_bb = (naive_shells(x, x, GRID, count)[1] for x in (a, b))
    got_k, got = diagnostics.power_spectrum(a, GRID, num_shells)
    np.testing.assert_allclose(got_k, k, rtol=1e-12)
    np.testing.assert_allclose(got, p_aa, rtol=1e-12)
    np.testing.assert_allclose(
        diagnostics.cross_correlation(a, b, GRID, num_shells)[1],
        p_ab / np.sqrt(p_aa * p_bb),
        rtol=1e-11,
    )
    np.testing.assert_allclose(
        diagnostics.transfer(a, b, GRID, num_shells)[1], np.sqrt(p_aa / p_bb), rtol=1e-12
    )
    np.testing.assert_array_equal(diagnostics.modes_per_shell(GRID, num_shells), modes)


def test_one_plane_wave():
    """A cosine of amplitude A has |d_k| = A N^3 / 2 at k and -k and nothing elsewhere."""
    x = 2 * np.pi * np.arange(8) / 8
    field = np.broadcast_to(3.0 * np.cos(2 * x)[:, None, None], GRID.shape)
    k, power = diagnostics.power_spectrum(field, GRID)
    modes = diagnostics.modes_per_shell(GRID)
    shell = int(np.argmin(np.abs(k - 2 * GRID.fundamental)))
    expected = np.zeros(4)
    expected[shell] = 2 * (3.0 / 2) ** 2 * GRID.volume / modes[shell]
    np.testing.assert_allclose(power, expected, atol=1e-9)


def test_white_noise_has_the_power_of_a_cell_and_its_scatter():
    fields = np.random.default_rng(1).normal(size=(40, 10, *GRID.shape)).astype(np.float32)
    _, power = diagnostics.power_spectrum(fields, GRID)
    assert power.shape == (40, 10, 4)
    ratio = power.reshape(400, 4) / GRID.cell_volume
    scatter = np.sqrt(2 / diagnostics.modes_per_shell(GRID))
    np.testing.assert_array_less(np.abs(ratio.mean(0) - 1), 4 * scatter / np.sqrt(400))
    np.testing.assert_allclose(ratio.std(0), scatter, rtol=4 / np.sqrt(2 * 400))


def test_correlation_broadcasts_and_is_bounded():
    rng = np.random.default_rng(2)
    truth, noise = rng.normal(size=GRID.shape), rng.normal(size=(5, *GRID.shape))
    fields = 0.6 * truth + 0.8 * noise
    k, r = diagnostics.cross_correlation(fields, truth, GRID)
    assert k.shape == (4,)
    assert r.shape == (5, 4)
    for index in range(5):
        one = diagnostics.cross_correlation(truth, fields[index], GRID)[1]
        np.testing.assert_allclose(r[index], one, rtol=1e-12)
    np.testing.assert_allclose(r.mean(), 0.6, atol=0.05)
    same, opposite = (
        diagnostics.cross_correlation(truth, x, GRID)[1] for x in (7.0 * truth, -truth)
    )
    np.testing.assert_allclose(same, 1.0, rtol=1e-12)
    np.testing.assert_allclose(opposite, -1.0, rtol=1e-12)
    np.testing.assert_allclose(diagnostics.transfer(7.0 * truth, truth, GRID)[1], 7.0, rtol=1e-12)
    assert np.isnan(diagnostics.cross_correlation(truth, np.zeros(GRID.shape), GRID)[1]).all()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 5), (2, 4, 4, 4)])
def test_fields_of_another_mesh_are_refused(shape):
    with pytest.raises(ValueError, match=r"`field`.*N=8.*Received: shape"):
        diagnostics.power_spectrum(np.zeros(shape), GRID)
    with pytest.raises(ValueError, match="`b`"):
        diagnostics.cross_correlation(np.zeros(GRID.shape), np.zeros(shape), GRID)


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


def test_unknown_is_nan_and_does_not_spread(caplog):
    draws = np.random.default_rng(7).normal(size=(100, 2, 5))
    draws[..., 1] = 3.0
    draws[4, 0, 2] = np.nan
    draws[:, 0, 3] = 1.0  # one of two chains stands still: bad, but known
    for diagnose in (diagnostics.effective_sample_size, diagnostics.split_rhat):
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
    assert rows[0].ess == pytest.approx(float(diagnostics.effective_sample_size(draws[..., 0])))
    assert rows[1].rhat == pytest.approx(float(diagnostics.split_rhat(draws[..., 1])))
    assert np.isnan(rows[2].ess)
    lines = diagnostics.format_table(rows).splitlines()
    assert lines[0].split() == ["parameter", "mean", "sd", "5%", "50%", "95%", "ESS", "R-hat"]
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[3].split() == ["c", "2", "0", "2", "2", "2", "-", "-"]


def test_parameter_table_of_one_draw():
    (row,) = diagnostics.parameter_table(np.ones((1, 1, 1)), ["a"])
    assert row.mean == 1.0
    assert np.isnan([row.sd, row.ess, row.rhat]).all()
    assert diagnostics.format_table([]).split()[0] == "parameter"


def test_parameter_table_refuses_other_names():
    with pytest.raises(ValueError, match="D=2"):
        diagnostics.parameter_table(np.zeros((5, 1, 3)), ["a", "b"])
