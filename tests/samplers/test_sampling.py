"""Runs may be cut anywhere, in memory and on disk."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from samplers import (
    Block,
    BlockGibbs,
    LimitedMemoryInverseHessian,
    QuasiNewtonAdaptation,
    QuasiNewtonHMC,
    Run,
    load_run,
    sample,
    save_run,
    to_inference_data,
)
from tests.samplers import targets

SEED = (1, 2)


def kernel() -> QuasiNewtonAdaptation:
    hmc = QuasiNewtonHMC(
        targets.skewed_log_prob,
        0.3,
        3,
        LimitedMemoryInverseHessian(4),
        store_parameters_in_results=True,
    )
    return QuasiNewtonAdaptation(tfp.mcmc.DualAveragingStepSizeAdaptation(hmc, 15), 12)


def start() -> Any:
    return tf.constant(targets.skewed_draws(np.random.default_rng(0), 2))


def assert_same(first: Run, second: Run) -> None:
    for a, b in zip(tf.nest.flatten(tuple(first)), tf.nest.flatten(tuple(second)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("between", [0, 2])
def test_pieces_are_the_whole_to_the_last_bit(between: int, jit_compile: bool) -> None:
    own = kernel()
    arguments: dict[str, Any] = {
        "seed": SEED,
        "num_steps_between_draws": between,
        "jit_compile": jit_compile,
    }
    whole = sample(own, 30, start(), chunk_size=7, **arguments)
    run = sample(own, 4, start(), chunk_size=7, **arguments)
    for count in (1, 13, 12):
        run = sample(own, count, previous=run, chunk_size=7, **arguments)
    assert_same(run, whole)
    assert whole.num_steps == 30 * (between + 1)
    assert whole.draws.shape == (30, 2, 3)
    np.testing.assert_array_equal(whole.draws[-1], whole.state)


def test_chunks_do_not_change_the_draws() -> None:
    own = kernel()
    runs = [sample(own, 20, start(), SEED, chunk_size=size) for size in (3, 20, 50)]
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


def test_it_is_the_chain_of_single_steps() -> None:
    own, state = kernel(), start()
    step = tf.function(own.one_step)
    results = own.bootstrap_results(state)
    run = sample(own, 5, state, SEED)
    for number in range(5):
        seed = tf.random.experimental.stateless_fold_in(tf.constant(SEED), number)
        state, results = step(state, results, seed=seed)
        np.testing.assert_allclose(run.draws[number], state, rtol=1e-12)


def test_a_run_goes_on_from_disk_to_the_last_bit(tmp_path: Path) -> None:
    whole = sample(kernel(), 24, start(), SEED)
    save_run(tmp_path / "run.npz", sample(kernel(), 10, start(), SEED))
    own = kernel()
    run = load_run(tmp_path / "run.npz", own, start())
    assert_same(sample(own, 14, seed=SEED, previous=run), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    save_run(path, sample(kernel(), 3, start(), SEED))
    with pytest.raises(ValueError, match="`path`. Expected `draws` of shapes"):
        load_run(path, kernel(), start()[:1])
    hmc = tfp.mcmc.HamiltonianMonteCarlo(targets.skewed_log_prob, 0.1, 2)
    with pytest.raises(ValueError, match="`path`. Expected `kernel_results` of shapes"):
        load_run(path, hmc, start())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "run.npz"
    run = sample(kernel(), 3, start(), SEED)
    save_run(path, run)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        save_run(path, run)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_blocks_in_parts_and_a_trace_of_ones_own() -> None:
    def log_prob(a: Any, b: Any) -> Any:
        return targets.skewed_log_prob(tf.concat([a, b], -1))

    def block(name: str) -> Block:
        return Block(name, lambda fn: QuasiNewtonHMC(fn, 0.4, 2, LimitedMemoryInverseHessian(3)))

    gibbs = BlockGibbs(log_prob, [block("a"), block("b")])
    state = [start()[:, :1], start()[:, 1:]]
    run = sample(gibbs, 6, state, SEED, trace_fn=lambda state, _: state[0] ** 2)
    assert [draws.shape for draws in run.draws] == [(6, 2, 1), (6, 2, 2)]
    np.testing.assert_array_equal(run.trace, run.draws[0] ** 2)


def test_callback_and_progress(capsys: Any) -> None:
    seen: list[Run] = []
    run = sample(kernel(), 10, start(), SEED, chunk_size=4, progress=True, on_chunk=seen.append)
    assert [len(part.draws) for part in seen] == [4, 8, 10]
    assert_same(seen[-1], run)
    assert "10/10 draws, 0 s left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_draws": -1}, "num_draws"),
        ({"num_draws": 2.0}, "num_draws"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"num_steps_between_draws": True}, "num_steps_between_draws"),
        ({"state": None}, "state"),
        ({"seed": None}, "seed"),
        ({"seed": 3}, "seed"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], name: str) -> None:
    given = {"num_draws": 2, "state": start(), "seed": SEED} | arguments
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        sample(kernel(), **given)


def test_arviz_reads_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
        run = sample(kernel(), 40, start(), SEED)
        data = to_inference_data(run, names=["theta"])
        assert dict(data["posterior"].sizes)["chain"] == 2
        assert dict(data["posterior"].sizes)["draw"] == 40
        np.testing.assert_array_equal(data["posterior"]["theta"][1, 3], run.draws[3, 1])
        assert data["sample_stats"]["accepted"].shape == (2, 40)
        assert "theta[0]" in arviz.summary(data).index
    with pytest.raises(ValueError, match="`names`. Expected 1"):
        to_inference_data(run, names=["a", "b"])
