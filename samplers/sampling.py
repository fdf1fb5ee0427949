"""Running a kernel: in pieces, resumable to the last bit, and on to ArviZ.

`tfp.mcmc.sample_chain` derives the seeds of its steps from each other, so that two calls of 500
steps are not one of 1000. Here the seed of step n is the run's seed folded with n: a run may be cut
anywhere, in memory or on disk, and goes on as if it had not been.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from samplers.results import find_innermost
from samplers.target import Tensor, stateless_seed

__all__ = ["Run", "load_run", "sample", "save_run", "to_inference_data"]


class Run(NamedTuple):
    """What a run has drawn, and all that it needs to go on.

    Attributes:
        draws: the state at every kept step, a nest of arrays `[draws, ...]`.
        trace: what `trace_fn` returned there, a nest of arrays `[draws, ...]`.
        state: the last state.
        kernel_results: the last kernel results.
        num_steps: steps taken since the start of the run.
    """

    draws: Any
    trace: Any
    state: Any
    kernel_results: Any
    num_steps: int


def _acceptance(_: Any, results: Any) -> dict[str, Tensor]:
    """Log density, and whether the step was accepted where the kernel says so."""
    found = {}
    for name in ("target_log_prob", "is_accepted"):
        try:
            found[name] = find_innermost(results, name)
        except ValueError:
            continue
    return found


def sample(
    kernel: Any,
    num_draws: int,
    state: Any = None,
    seed: Any = None,
    previous: Run | None = None,
    num_steps_between_draws: int = 0,
    trace_fn: Callable[[Any, Any], Any] = _acceptance,
    chunk_size: int = 100,
    jit_compile: bool = False,
    progress: bool = False,
    on_chunk: Callable[[Run], None] | None = None,
) -> Run:
    """Run a transition kernel.

    Args:
        kernel: any `tfp.mcmc.TransitionKernel`.
        num_draws: number of draws to make now.
        state: where to start, unless there is a `previous` run.
        seed: stateless seed of the run, the same for all its pieces.
        previous: a run to go on with; its draws are kept in front of the new ones.
        num_steps_between_draws: steps that are taken and not kept before each draw.
        trace_fn: of state and kernel results, what to keep beside the state; by default the log
            density and whether the step was accepted.
        chunk_size: draws per call of the compiled function. Chunks do not change the draws.
        jit_compile: whether XLA compiles it. XLA's draws differ from others in the last bits.
        progress: whether to write a line with the time left to standard error after each chunk.
        on_chunk: called with the run so far after each chunk, to save it for instance.

    Returns:
        The run.

    Raises:
        ValueError: if an argument is out of range, or neither or both of `state` and `previous`
            are given.
    """
    for name, value, smallest in (
        ("num_draws", num_draws, 0),
        ("num_steps_between_draws", num_steps_between_draws, 0),
        ("chunk_size", chunk_size, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < smallest:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected an integer of at least "
                f"{smallest}. Received: {name}={value!r}"
            )
    if (state is None) == (previous is None):
        raise ValueError(
            "Invalid value for argument `state`. Expected a state to start from, or a run for "
            f"`previous`, and not both. Received: state={state!r}"
        )
    seed = stateless_seed(seed)
    if previous is None:
        state = tf.nest.map_structure(tf.convert_to_tensor, state)
        run = Run(None, None, state, kernel.bootstrap_results(state), 0)
    else:
        run = previous
    stride = num_steps_between_draws + 1
    advance = _compiled(kernel, trace_fn, chunk_size, stride, jit_compile)
    pieces = [] if run.draws is None else [(run.draws, run.trace)]
    done, started = 0, time.monotonic()
    while done < num_draws or not pieces:
        count = min(chunk_size, num_draws - done)
        first = tf.constant(run.num_steps)
        new_state, results, draws, trace = advance(
            run.state, run.kernel_results, seed, first, tf.constant(count)
        )
        kept = tf.nest.map_structure(lambda value, n=count: value.numpy()[:n], (draws, trace))
        pieces.append(kept)
        done += count
        run = Run(None, None, new_state, results, run.num_steps + count * stride)
        if on_chunk is not None:
            pieces = [_joined(pieces)]
            on_chunk(run._replace(draws=pieces[0][0], trace=pieces[0][1]))
        if progress:
            _report(done, num_draws, time.monotonic() - started)
    draws, trace = _joined(pieces)
    return run._replace(draws=draws, trace=trace)


@functools.lru_cache(maxsize=16)
def _compiled(
    kernel: Any, trace_fn: Any, chunk_size: int, stride: int, jit_compile: bool
) -> Callable[..., Any]:
    """A function that takes up to `chunk_size` draws and keeps them."""

    @tf.function(jit_compile=jit_compile)
    def advance(state: Any, results: Any, seed: Tensor, first: Tensor, count: Tensor) -> Any:
        example = tf.nest.flatten((state, trace_fn(state, results)))
        kept = [tf.TensorArray(x.dtype, chunk_size, element_shape=x.shape) for x in example]

        def one_draw(number: Tensor, state: Any, results: Any, kept: Any) -> Any:
            def one_step(inner: Tensor, state: Any, results: Any) -> Any:
                step = first + number * stride + inner
                own = tf.random.experimental.stateless_fold_in(seed, step)
                new_state, new_results = kernel.one_step(state, results, seed=own)
                return inner + 1, new_state, new_results

            if stride == 1:
                _, state, results = one_step(tf.constant(0), state, results)
            else:
                _, state, results = tf.while_loop(
                    lambda inner, *_: inner < stride,
                    one_step,
                    (tf.constant(0), state, results),
                )
            values = tf.nest.flatten((state, trace_fn(state, results)))
            kept = [array.write(number, x) for array, x in zip(kept, values, strict=True)]
            return number + 1, state, results, kept

        _, state, results, kept = tf.while_loop(
            lambda number, *_: number < count, one_draw, (tf.constant(0), state, results, kept)
        )
        stacked = [array.stack() for array in kept]
        draws, trace = tf.nest.pack_sequence_as((state, trace_fn(state, results)), stacked)
        return state, results, draws, trace

    return advance


def _joined(pieces: Sequence[Any]) -> Any:
    if len(pieces) == 1:
        return pieces[0]
    return tf.nest.map_structure(lambda *values: np.concatenate(values), *pieces)


def _report(done: int, total: int, seconds: float) -> None:
    left = seconds / max(done, 1) * (total - done)
    print(
        f"\r{done}/{total} draws, {left:.0f} s left",
        end="\n" if done >= total else "",
        file=sys.stderr,
        flush=True,
    )


def save_run(path: str | os.PathLike[str], run: Run) -> None:
    """Write a run to a NumPy archive; what was there before is replaced only when it is complete.

    Args:
        path: of the file, ``.npz``.
        run: what to write.
    """
    path = Path(path)
    arrays: dict[str, Any] = {"num_steps": np.asarray(run.num_steps)}
    for name in ("draws", "trace", "state", "kernel_results"):
        for number, value in enumerate(tf.nest.flatten(getattr(run, name))):
            arrays[f"{name}_{number}"] = np.asarray(value)
    scratch = path.with_name(path.name + ".tmp")
    try:
        with open(scratch, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def load_run(
    path: str | os.PathLike[str],
    kernel: Any,
    state_like: Any,
    trace_fn: Callable[[Any, Any], Any] = _acceptance,
) -> Run:
    """Read a run that `save_run` wrote.

    Args:
        path: of the file.
        kernel: the kernel of the run, made as it was then; it gives the structure of the results.
        state_like: a state of the same structure, shapes and dtypes.
        trace_fn: of the run.

    Returns:
        The run, to be passed to `sample` as `previous`.

    Raises:
        ValueError: if what the file holds does not fit the kernel and the state.
    """
    state_like = tf.nest.map_structure(tf.convert_to_tensor, state_like)
    results = kernel.bootstrap_results(state_like)
    with np.load(path, allow_pickle=False) as archive:
        stored = dict(archive)

    def read(name: str, like: Any, extra_axes: int, as_tensor: bool) -> Any:
        flat = tf.nest.flatten(like)
        found = [stored[key] for n in range(len(flat)) if (key := f"{name}_{n}") in stored]
        shapes = [tuple(value.shape[extra_axes:]) for value in found]
        kinds = [value.dtype for value in found]
        expected = [tuple(value.shape) for value in flat]
        wanted = [np.dtype(value.dtype.as_numpy_dtype) for value in flat]
        surplus = f"{name}_{len(flat)}" in stored
        if shapes != expected or kinds != wanted or surplus:
            raise ValueError(
                f"Invalid value for argument `path`. Expected `{name}` of shapes {expected} and "
                f"dtypes {wanted}, as the kernel has them. Received: {shapes} and {kinds} in {path}"
            )
        values = [tf.constant(value) for value in found] if as_tensor else found
        return tf.nest.pack_sequence_as(like, values)

    return Run(
        draws=read("draws", state_like, 1, False),
        trace=read("trace", trace_fn(state_like, results), 1, False),
        state=read("state", state_like, 0, True),
        kernel_results=read("kernel_results", results, 0, True),
        num_steps=int(stored["num_steps"]),
    )


def to_inference_data(run: Run, names: Sequence[str] | None = None) -> Any:
    """Return the draws as ArviZ takes them.

    Args:
        run: of chains along the first axis of the state (`[draws, chains, ...]`).
        names: of the parts of the state; ``x`` or ``x_0``, ``x_1``, ... by default.

    Returns:
        `arviz.InferenceData` (a `DataTree` from ArviZ 1 on) with the groups ``posterior`` and
        ``sample_stats``.

    Raises:
        ImportError: if ArviZ is not installed.
        ValueError: if there are no chains, or not one name for each part.
    """
    try:
        import arviz
    except ImportError as error:
        raise ImportError("`to_inference_data` needs ArviZ: pip install arviz") from error
    parts = tf.nest.flatten(run.draws)
    if names is None:
        names = ["x"] if len(parts) == 1 else [f"x_{n}" for n in range(len(parts))]
    if len(names) != len(parts):
        raise ValueError(
            f"Invalid value for argument `names`. Expected {len(parts)}, one for each part of the "
            f"state. Received: names={names!r}"
        )
    if any(part.ndim < 2 for part in parts):
        raise ValueError(
            "Invalid value for argument `run`. Expected draws of shape [draws, chains, ...]. "
            f"Received: {[part.shape for part in parts]}"
        )
    # ArviZ has chains first, draws second
    posterior = {name: part.swapaxes(0, 1) for name, part in zip(names, parts, strict=True)}
    groups: dict[str, Any] = {"posterior": posterior}
    if isinstance(run.trace, dict):
        renamed = {"target_log_prob": "lp", "is_accepted": "accepted"}
        chains = parts[0].shape[:2]
        groups["sample_stats"] = {
            renamed.get(name, name): value.swapaxes(0, 1)
            for name, value in run.trace.items()
            if value.shape[:2] == chains
        }
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(groups)
    return arviz.from_dict(**groups)
