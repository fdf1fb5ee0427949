"""Multipole convolutions against dense ones, sums of shifted copies, and e3nn.

Measured: `layers.MultipoleConv3D` by both of its methods, ``shells`` and ``dense``, and as it
comes, by the one of them that ``auto`` takes; without bias or activation, on a field of white
noise. The value is the output; the gradient is that of the output times a fixed mesh, with respect
to the field and to the weights, and is returned together with the output. Modes: eager, in a
`tf.function` (graph), in one compiled by XLA (jit). The peers have the same kernel:

* ``Conv3D``: `keras.layers.Conv3D` of the same extent, with its own ``"valid"`` and ``"same"``; for
  the periodic padding, which it lacks, behind `layers.PeriodicPadding3D`;
* ``roll``: for each shell a plain sum of `tf.roll` over its cells, times the weight of the shell;
  for ``"valid"`` padding cut to the cells that have all neighbours; no layer around it;
* ``separable``: the same sum by pairs of `tf.roll`, axis by axis;
* ``e3nn``: `e3nn.nn.models.v2104.voxel_convolution.Convolution` if e3nn is installed, eager, in
  float32, on all cores and on one, with ``"same"`` padding, the only one that it has. For l = 1 our
  layer then shares its weights among the m, as e3nn does. It has a weight for the centre and as
  many radial functions as there are shells, the fewest with which it reaches the kernel, but
  nothing 3 cells from the centre: the two outermost shells of 5^3 are missing from its kernel.

Why: the field goes through the layer in every gradient of the posterior. The ratios decide which
method ``method="auto"`` takes, and tell what the layer costs over the sum that it stands for.

Output and gradient by the field are compared with those of a dense convolution before anything is
timed. All implementations and modes of a case take turns, so that a busy machine slows all alike; a
turn is as many calls as fit into 10 ms, or one, and calls of 0.1 s and more have 3 turns. In
brackets: time over that of ``shells`` in the same mode, above 1 where shells are faster.

Run from the root of the repository: ``python benchmarks/convolution.py``. Other channels and
filters: ``python benchmarks/convolution.py --sections channels --channels 1:8 8:1``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from layers import MultipoleConv3D, PeriodicPadding3D

try:
    import torch
    from e3nn import o3
    from e3nn.nn.models.v2104.voxel_convolution import Convolution as VoxelConvolution
except ImportError:
    torch = None

Tensor = Any
Array = NDArray[Any]
Run = Callable[[], Sequence[Any]]
Key = tuple[str, str, str]

MODES = ("eager", "graph", "jit")
TASKS = ("value", "value and gradient")
SECTIONS = ("one_channel", "multipoles", "channels")
METHODS = ("shells", "dense", "auto")
OURS = "shells"
WIDTH = 17
SECONDS_PER_TURN = 0.01
LONG_CALL = 0.1
LONG_CALL_TURNS = 3
TOLERANCES = {"float32": 1e-4, "float64": 1e-10}


class Case(NamedTuple):
    """What is convolved with what.

    Attributes:
        num_cells: N of the field `[1, N, N, N, channels]`.
        channels: of the field.
        filters: of the layer.
        extent: k of the k^3 kernel.
        multipoles: orders l.
        share_orders: whether a weight of l = 1 is shared by its three m.
        padding: ``"valid"``, ``"periodic"`` or ``"same"``.
        dtype: of field and weights.
        modes: some of `MODES`.
        peers: what is compared with ``shells`` and ``dense``: ``auto`` or a peer.
    """

    num_cells: int = 64
    channels: int = 1
    filters: int = 1
    extent: int = 3
    multipoles: tuple[int, ...] = (0,)
    share_orders: bool = False
    padding: str = "periodic"
    dtype: str = "float32"
    modes: tuple[str, ...] = MODES
    peers: tuple[str, ...] = ("Conv3D",)

    def __str__(self) -> str:
        """Heading of the case's table."""
        orders = ", ".join(str(order) for order in self.multipoles)
        shared = " shared" if self.share_orders else ""
        return (
            f"{self.extent}^3 kernel, l = {orders}{shared}; {self.channels} -> {self.filters}; "
            f"{self.num_cells}^3, {self.padding}, {self.dtype}"
        )


class Convolution(NamedTuple):
    """An implementation in TensorFlow, and the weights that it depends on."""

    call: Callable[[Tensor], Tensor]
    weights: list[Any]


def multipole_layer(case: Case, method: str) -> MultipoleConv3D:
    """Our layer, built, with weights that depend on the case alone.

    Raises:
        ValueError: if this version of the layer knows only l = 0.
    """
    orders: dict[str, Any] = {} if case.multipoles == (0,) else {"share_orders": case.share_orders}
    layer = MultipoleConv3D(
        case.filters,
        case.extent,
        multipoles=case.multipoles,
        padding=case.padding,
        use_bias=False,
        method=method,
        dtype=case.dtype,
        **orders,
    )
    layer.build((1, *[case.num_cells] * 3, case.channels))
    noise = np.random.default_rng(2)
    layer.set_weights([noise.standard_normal(weight.shape) for weight in layer.get_weights()])
    return layer


def dense_peer(case: Case, kernel: Array) -> Convolution:
    """Keras' own layer with a dense kernel `[k, k, k, channels, outputs]`."""
    padding = "same" if case.padding == "same" else "valid"
    layer = keras.layers.Conv3D(
        kernel.shape[-1], case.extent, padding=padding, use_bias=False, dtype=case.dtype
    )
    layer.build((1, *[case.num_cells] * 3, case.channels))
    layer.set_weights([kernel])
    if case.padding != "periodic":
        return Convolution(layer, layer.trainable_variables)
    pad = PeriodicPadding3D(case.extent // 2, dtype=case.dtype)
    return Convolution(lambda field: layer(pad(field)), layer.trainable_variables)


def lattice(extent: int) -> Array:
    """Offsets of the cells of a kernel from its centre, `[k^3, 3]`."""
    return np.indices((extent,) * 3).reshape(3, -1).T - extent // 2


def shell_weights(case: Case, kernel: Array) -> tuple[dict[int, int], tf.Variable]:
    """Number of a shell for each squared radius, and the weights of a kernel of l = 0."""
    squared_radii = np.sum(lattice(case.extent) ** 2, axis=1)
    radii, cells = np.unique(squared_radii, return_index=True)
    weights = tf.Variable(kernel.reshape(-1)[cells], dtype=case.dtype)
    return {int(radius): shell for shell, radius in enumerate(radii)}, weights


def cut(case: Case, field: Tensor) -> Tensor:
    """The cells of a periodic result that the padding asks for."""
    if case.padding == "periodic":
        return field
    inner = slice(case.extent // 2, case.num_cells - case.extent // 2)
    return field[:, inner, inner, inner]


def roll_peer(case: Case, kernel: Array) -> Convolution:
    """One roll for each cell of the kernel."""
    number, weights = shell_weights(case, kernel)
    cells: list[list[Any]] = [[] for _ in number]
    for offset in lattice(case.extent):
        cells[number[int(offset @ offset)]].append(offset.tolist())

    def call(field: Tensor) -> Tensor:
        shells = [tf.add_n([tf.roll(field, cell, [1, 2, 3]) for cell in shell]) for shell in cells]
        return cut(case, tf.add_n([weights[s] * mesh for s, mesh in enumerate(shells)]))

    return Convolution(call, [weights])


def separable_peer(case: Case, kernel: Array) -> Convolution:
    """Pairs of rolls, along the last two axes of the field and of weighted sums along the first."""
    number, weights = shell_weights(case, kernel)
    distances = range(case.extent // 2 + 1)

    def pair(mesh: Tensor, distance: int, axis: int) -> Tensor:
        if distance == 0:
            return mesh
        return tf.roll(mesh, distance, axis) + tf.roll(mesh, -distance, axis)

    def call(field: Tensor) -> Tensor:
        lines = [pair(field, distance, 3) for distance in distances]
        planes = {}
        for b, c in itertools.combinations_with_replacement(distances, 2):
            plane = pair(lines[c], b, 2)
            planes[b, c] = plane if b == c else plane + pair(lines[b], c, 2)
        parts = []
        for a in distances:
            shells = {(b, c): number[a * a + b * b + c * c] for b, c in planes}
            parts.append(tf.add_n([weights[shells[bc]] * planes[bc] for bc in planes]))
        return cut(case, tf.add_n([pair(part, a, 1) for a, part in enumerate(parts)]))

    return Convolution(call, [weights])


PEERS = {"Conv3D": dense_peer, "roll": roll_peer, "separable": separable_peer}


def tensorflow_run(
    convolution: Convolution, mode: str, field: Tensor, upstream: Tensor | None
) -> Run:
    """Call that returns the output; with an upstream gradient also those by field and weights."""

    def compute(field: Tensor, upstream: Tensor | None) -> list[Tensor]:
        if upstream is None:
            return [convolution.call(field)]
        with tf.GradientTape() as tape:
            tape.watch(field)
            output = convolution.call(field)
        return [output, *tape.gradient(output, [field, *convolution.weights], upstream)]

    if mode != "eager":
        compute = tf.function(compute, jit_compile=mode == "jit")
    return lambda: compute(field, upstream)


def e3nn_layer(case: Case) -> Any:
    """e3nn's layer of the same extent; its orders l have parity (-1)^l."""
    waves = [(1, (order, (-1) ** order)) for order in case.multipoles]
    return VoxelConvolution(
        f"{case.channels}x0e",
        o3.Irreps([(case.filters, irrep) for _, irrep in waves]),
        o3.Irreps(waves),
        diameter=case.extent + 0.9,
        num_radial_basis=len(np.unique(np.sum(lattice(case.extent) ** 2, axis=1))),
    )


def e3nn_kernel(case: Case, kernel: Array) -> Array:
    """The part of a kernel that e3nn's radial functions reach, its maps in the order of e3nn."""
    kernel = kernel if case.multipoles == (0,) else kernel[..., [0, 3, 1, 2]]
    reach = (case.extent + 0.9) / 2
    radii = np.sqrt(np.sum(lattice(case.extent) ** 2, axis=1)).reshape((case.extent,) * 3)
    return np.where((radii < reach)[..., None, None], kernel, 0.0)


def e3nn_parameters(layer: Any) -> list[Any]:
    """Its parameters, without the empty one that it may have for a bias."""
    return [parameter for parameter in layer.parameters() if parameter.numel()]


def fit_e3nn(layer: Any, kernel: Array) -> None:
    """Set the parameters, in which its kernel is linear, by least squares; for one channel."""
    extent = kernel.shape[0]
    delta = torch.zeros(1, 1, *[extent] * 3)
    delta[..., extent // 2, extent // 2, extent // 2] = 1.0
    vector = torch.nn.utils.parameters_to_vector(e3nn_parameters(layer)).detach()

    def kernel_of(parameters: Any) -> Array:
        torch.nn.utils.vector_to_parameters(parameters, e3nn_parameters(layer))
        return layer(delta)[0].flip((1, 2, 3)).permute(1, 2, 3, 0).numpy().ravel()

    with torch.no_grad():
        columns = [kernel_of(row) for row in torch.eye(vector.numel())]
        solution = np.linalg.lstsq(np.stack(columns, 1), kernel.ravel(), rcond=1e-5)[0]
        kernel_of(torch.as_tensor(solution.astype(np.float32)))


def e3nn_run(layer: Any, cores: int, field: Tensor, upstream: Tensor | None) -> Run:
    """Like `tensorflow_run`, on a number of cores and with channels second."""

    def channels_second(mesh: Tensor) -> Any:
        return torch.as_tensor(np.moveaxis(mesh.numpy(), -1, 1).copy())

    mesh = channels_second(field)
    if upstream is None:

        def value() -> list[Any]:
            torch.set_num_threads(cores)
            with torch.no_grad():
                return [layer(mesh)]

        return value
    inputs = [mesh.requires_grad_(), *e3nn_parameters(layer)]
    weight = channels_second(upstream)

    def value_and_gradient() -> list[Any]:
        torch.set_num_threads(cores)
        output = layer(mesh)
        return [output, *torch.autograd.grad(output, inputs, weight)]

    return value_and_gradient


def first_results(run: Run) -> list[Array]:
    """Output, and gradient by the field if there is one, `[1, N, N, N, C]`."""
    results = run()[:2]
    if torch is not None and isinstance(results[0], torch.Tensor):
        return [np.moveaxis(result.detach().numpy(), 1, -1) for result in results]
    return [result.numpy() for result in results]


def check(name: str, run: Run, reference: list[Array], tolerance: float) -> None:
    """Compare output and gradient by the field.

    Raises:
        RuntimeError: if they differ.
    """
    for result, expected in zip(first_results(run), reference, strict=True):
        error = np.max(np.abs(result - expected)) / np.std(expected)
        if not error < tolerance:
            raise RuntimeError(f"{name} differs from a dense convolution by {error:.1e} of the rms")


def reference_results(
    case: Case, kernel: Array, field: Tensor, upstream: Tensor | None
) -> list[Array]:
    """What a dense convolution gives."""
    return first_results(tensorflow_run(dense_peer(case, kernel), "graph", field, upstream))


def median_seconds(runs: dict[Any, Run], turns: int) -> dict[Any, float]:
    """Time of a call of each; the calls take turns."""
    calls, last_turn, seconds = {}, {}, {}
    for key, run in runs.items():
        began = time.perf_counter()
        run()
        duration = time.perf_counter() - began
        calls[key] = max(1, int(SECONDS_PER_TURN / duration))
        last_turn[key] = turns if duration < LONG_CALL else LONG_CALL_TURNS - 1
        seconds[key] = [] if duration < LONG_CALL else [duration]
    for turn in range(turns):
        for key, run in runs.items():
            if turn >= last_turn[key]:
                continue
            began = time.perf_counter()
            for _ in range(calls[key]):
                run()
            seconds[key].append((time.perf_counter() - began) / calls[key])
    return {key: float(np.median(values)) for key, values in seconds.items()}


def measure(case: Case, turns: int) -> tuple[dict[str, int], dict[Key, float]]:
    """Parameters of each implementation, and seconds of each in each mode and task.

    Raises:
        RuntimeError: if two implementations differ.
    """
    noise = np.random.default_rng(1)

    def draw(shape: Sequence[int]) -> Tensor:
        return tf.constant(noise.standard_normal(shape), case.dtype)

    methods = [method for method in METHODS if method != "auto" or method in case.peers]
    layers = {method: multipole_layer(case, method) for method in methods}
    field = draw((1, *[case.num_cells] * 3, case.channels))
    mesh = draw(layers["dense"](field).shape)
    kernel = np.asarray(layers["dense"].kernel)
    convolutions = {
        **{name: Convolution(layer, layer.trainable_variables) for name, layer in layers.items()},
        **{name: peer(case, kernel) for name, peer in PEERS.items() if name in case.peers},
    }
    parameters = {
        name: sum(int(np.prod(weight.shape)) for weight in convolution.weights)
        for name, convolution in convolutions.items()
    }
    tolerance = TOLERANCES[case.dtype]
    runs: dict[Key, Run] = {}
    for task, upstream in zip(TASKS, (None, mesh), strict=True):
        expected = reference_results(case, kernel, field, upstream)
        for (name, convolution), mode in itertools.product(convolutions.items(), case.modes):
            run = tensorflow_run(convolution, mode, field, upstream)
            check(f"{name} ({mode})", run, expected, tolerance)
            runs[name, mode, task] = run
    if "e3nn" in case.peers and torch is not None:
        layer, reached = e3nn_layer(case), e3nn_kernel(case, kernel)
        fit_e3nn(layer, reached)
        cores = {"e3nn": os.cpu_count() or 1, "e3nn, 1 core": 1}
        for (name, number), (task, upstream) in itertools.product(
            cores.items(), zip(TASKS, (None, mesh), strict=True)
        ):
            expected = reference_results(case, reached, field, upstream)
            parameters[name] = sum(weight.numel() for weight in e3nn_parameters(layer))
            runs[name, "eager", task] = e3nn_run(layer, number, field, upstream)
            check(name, runs[name, "eager", task], expected, 10 * tolerance)
    return parameters, median_seconds(runs, turns)


def print_table(
    case: Case, parameters: dict[str, int], seconds: dict[Key, float], total: float
) -> None:
    """One case: a row for each implementation, a column for each mode of each task."""
    columns = list(itertools.product(TASKS, case.modes))
    modes = "".join(f"{mode:>{WIDTH}s}" for _, mode in columns)
    tasks = "".join(f"{task:>{WIDTH * len(case.modes)}s}" for task in TASKS)
    print(f"\n{case} [ms]\n{'':12s}{'':>11s}{tasks}\n{'':12s}{'parameters':>11s}{modes}")
    for name, number in parameters.items():
        row = f"{name:12s}{number:11d}"
        for task, mode in columns:
            cell = "-"
            if (name, mode, task) in seconds:
                time_of = seconds[name, mode, task]
                ratio = "" if name == OURS else f" ({time_of / seconds[OURS, mode, task]:5.2f})"
                cell = f"{1e3 * time_of:.2f}{ratio or ' ' * 8}"
            row += f"{cell:>{WIDTH}s}"
        print(row)
    print(f"{'':12s}{total:.0f} s with compilation", flush=True)


def print_claims(case: Case, seconds: dict[Key, float]) -> None:
    """The layer as it comes, with one channel, one filter and 3^3, against its upper bounds."""
    for peer, mode, bound in (("roll", "jit", 3), ("Conv3D", "eager", 1), ("Conv3D", "graph", 1)):
        ratios = [
            seconds["auto", mode, task] / seconds[peer, mode, task]
            for task in TASKS
            if (peer, mode, task) in seconds
        ]
        if ratios:
            verdict = "holds" if max(ratios) <= bound else "FAILS"
            values = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{mode}: auto / {peer} = {values}; at most {bound} {verdict}", flush=True)


def section_cases(section: str, channels: Sequence[tuple[int, int]]) -> list[Case]:
    """Cases of a section."""
    with_e3nn = ("Conv3D", "e3nn")
    if section == "one_channel":
        rolls = ("Conv3D", "roll", "separable")
        auto = {3: ("auto",), 5: ()}
        cases = [
            *(("float32", 3, padding) for padding in ("periodic", "valid", "same")),
            *(("float32", 5, padding) for padding in ("periodic", "same")),
            *(("float64", 3, padding) for padding in ("periodic", "valid")),
            ("float64", 5, "periodic"),
        ]
        return [
            Case(
                extent=extent,
                padding=padding,
                dtype=dtype,
                modes=MODES if (dtype, extent) != ("float64", 5) else MODES[1:],
                peers=(with_e3nn if padding == "same" else rolls) + auto[extent],
            )
            for dtype, extent, padding in cases
        ]
    if section == "multipoles":
        vector = Case(num_cells=32, multipoles=(0, 1), modes=MODES[1:], peers=())
        shared = Case(multipoles=(0, 1), share_orders=True, padding="same", peers=with_e3nn)
        return [
            *(shared._replace(extent=k) for k in (3, 5)),
            *(vector._replace(extent=k, filters=f) for f, k in itertools.product((1, 4), (3, 5))),
        ]
    return [
        Case(num_cells=32, channels=c, filters=f, extent=k, modes=MODES[1:])
        for (c, f), k in itertools.product(channels, (3, 5))
    ]


def pair_of_numbers(text: str) -> tuple[int, int]:
    """Channels and filters from ``channels:filters``."""
    channels, filters = text.split(":")
    return int(channels), int(filters)


def main() -> None:
    """Measure the cases and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7, help="timings of each implementation")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument(
        "--channels",
        nargs="+",
        type=pair_of_numbers,
        default=[(8, 8), (16, 16)],
        help="channels:filters of the section of that name",
    )
    args = parser.parse_args()

    began = time.monotonic()
    print(f"{os.cpu_count()} cores; medians of {args.turns}; (ratio) = peer / {OURS}")
    if torch is None:
        print("e3nn is not installed (pip install torch e3nn): skipped")
    for section in args.sections:
        for case in section_cases(section, args.channels):
            case_began = time.monotonic()
            try:
                multipole_layer(case, OURS)
            except ValueError as error:
                print(f"\n{case}: not available ({error})", flush=True)
                continue
            parameters, seconds = measure(case, args.turns)
            print_table(case, parameters, seconds, time.monotonic() - case_began)
            if section == "one_channel" and case.extent == 3:
                print_claims(case, seconds)
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
