"""A limited-memory BFGS approximation B of an inverse Hessian.

B follows from m pairs of a displacement s and the change y of the gradient along it by the BFGS
recursion from B_0 = gamma I, oldest pair first,

    B <- (I - rho s y') B (I - rho y s') + rho s s',    rho = 1 / s'y,

which is symmetric positive definite whenever every s'y > 0. With the pairs as rows of S and Y and
the triangle R_ij = s_i'y_j for j >= i, both loops of the two-loop recursion (Nocedal 1980) are
back substitutions (Byrd, Nocedal & Schnabel 1994, https://doi.org/10.1007/BF01582063):

    R a = S v,    R'c = D a - gamma Y (v - Y'a),    B v = gamma (v - Y'a) + S'c,    D = diag(R).

Unrolling the recursion over the outer products instead gives a rectangular factor F with
B = F F', hence an exact draw F z from N(0, B) at the price of one loop:

    x = sqrt(gamma) z,    R'c = sqrt(D) z' - Y x,    F (z, z') = x + S'c.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import NDArray

from samplers.target import Tensor, stateless_seed

__all__ = ["LimitedMemoryInverseHessian", "PairHistory"]


class PairHistory(NamedTuple):
    """The curvature state: m pairs, newest last; unused rows in front are zero.

    Leading axes, if any, count chains with a history each; without them one history serves all.

    Attributes:
        steps: displacements s, `[..., m, d]`.
        gradient_changes: changes y of the gradient of -log density, `[..., m, d]`.
        triangle: R_ij = s_i'y_j for j >= i, one on the diagonal of unused rows, `[..., m, m]`.
        scale: gamma, so that B = gamma I before the first pair, `[...]`.
        count: number of pairs taken so far, dropped ones included, int32 `[...]`.
    """

    steps: Tensor
    gradient_changes: Tensor
    triangle: Tensor
    scale: Tensor
    count: Tensor


class LimitedMemoryInverseHessian:
    """Inverse Hessian of -log density from the last `memory` pairs.

    Args:
        memory: number m of pairs kept.
        initial_scale: gamma. A positive number is kept; "secant" starts from 1 and takes
            s'y / y'y of the newest pair.
        shared: whether one history serves all chains, which then pool their pairs, or every
            chain has its own.
        min_cosine: a pair is skipped unless s'y > min_cosine |s| |y|. On a quadratic of
            condition number kappa the cosine is at least 2 / sqrt(kappa).
        damping: `None` to take pairs as they are, or a number mu in (0, 1), 0.2 as a rule: where
            s'y < mu y'B y, as where the density is not log-concave, s is replaced by the mixture
            of s and B y for which equality holds (Powell 1978, in the form for B of Goldfarb, Ren
            & Bahamou 2020), so that no pair is lost to negative curvature.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        memory: int = 20,
        initial_scale: float | str = "secant",
        shared: bool = True,
        min_cosine: float = 1e-4,
        damping: float | None = None,
    ) -> None:
        """Check the arguments and keep them; the class says what they are."""
        if isinstance(memory, bool) or not isinstance(memory, (int, np.integer)) or memory < 1:
            raise ValueError(
                "Invalid value for argument `memory`. Expected a positive integer. "
                f"Received: memory={memory!r}"
            )
        secant = isinstance(initial_scale, str) and initial_scale == "secant"
        if not secant and not (
            isinstance(initial_scale, (int, float, np.number))
            and np.isfinite(initial_scale)
            and initial_scale > 0
        ):
            raise ValueError(
                'Invalid value for argument `initial_scale`. Expected "secant" or a positive '
                f"finite number. Received: initial_scale={initial_scale!r}"
            )
        if not 0.0 <= min_cosine < 1.0:
            raise ValueError(
                "Invalid value for argument `min_cosine`. Expected a number in [0, 1). "
                f"Received: min_cosine={min_cosine!r}"
            )
        if damping is not None and not 0.0 < damping < 1.0:
            raise ValueError(
                "Invalid value for argument `damping`. Expected a number in (0, 1) or None. "
                f"Received: damping={damping!r}"
            )
        self._damping = damping
        self._memory = int(memory)
        self._initial_scale = None if secant else float(initial_scale)
        self._shared = bool(shared)
        self._min_cosine = float(min_cosine)

    @property
    def memory(self) -> int:
        """Number of pairs kept."""
        return self._memory

    @property
    def shared(self) -> bool:
        """Whether one history serves all chains."""
        return self._shared

    @property
    def event_ndims(self) -> int:
        """States are vectors, `[..., d]`."""
        return 1

    def initial(self, state_like: Tensor) -> PairHistory:
        """Return the history without a pair, B = gamma I.

        Args:
            state_like: a state, `[..., d]`.

        Returns:
            A history for states of that shape and precision.

        Raises:
            ValueError: if the state has no axis, or its last one no static size.
        """
        state = tf.convert_to_tensor(state_like)
        if state.shape.rank is None or state.shape.rank < 1 or state.shape[-1] is None:
            raise ValueError(
                "Invalid value for argument `state_like`. Expected a tensor of shape [..., d] "
                f"with a static d. Received: shape={state.shape}"
            )
        batch = tf.zeros([0], tf.int32) if self._shared else tf.shape(state)[:-1]
        m, d, dtype = self._memory, state.shape[-1], state.dtype
        pairs = tf.zeros(tf.concat([batch, [m, d]], 0), dtype)
        scale = 1.0 if self._initial_scale is None else self._initial_scale
        return PairHistory(
            steps=pairs,
            gradient_changes=pairs,
            triangle=tf.eye(m, batch_shape=batch, dtype=dtype),
            scale=tf.fill(batch, tf.constant(scale, dtype)),
            count=tf.zeros(batch, tf.int32),
        )

    def update(self, history: PairHistory, steps: Tensor, gradient_changes: Tensor) -> PairHistory:
        """Take in one pair per chain and drop the oldest to keep m.

        Pairs of too little curvature and pairs that are not finite are skipped. A shared history
        takes the pairs of all chains in their order, as if they came one after the other.

        Args:
            history: the history so far.
            steps: displacements s, `[..., d]`.
            gradient_changes: changes y of the gradient of -log density, `[..., d]`.

        Returns:
            The new history.
        """
        dtype = history.steps.dtype
        s = tf.convert_to_tensor(steps, dtype)
        y = tf.convert_to_tensor(gradient_changes, dtype)
        if self._damping is not None:
            s = self._damped(history, s, y)
        if history.steps.shape.rank == 2:
            d = history.steps.shape[-1]
            s, y = tf.reshape(s, [-1, d]), tf.reshape(y, [-1, d])
        else:
            s, y = s[..., None, :], y[..., None, :]
        curvature = tf.reduce_sum(s * y, -1)
        size = tf.norm(s, axis=-1) * tf.norm(y, axis=-1)
        # A comparison with NaN is false, and so is one of infinities of equal sign.
        accepted = tf.math.is_finite(size) & (curvature > self._min_cosine * size)
        # A product that underflows would divide by zero in gamma and in the triangle.
        tiny = np.finfo(dtype.as_numpy_dtype).tiny
        accepted &= (curvature > tiny) & (tf.reduce_sum(y * y, -1) > tiny)
        s = tf.where(accepted[..., None], s, 0)
        y = tf.where(accepted[..., None], y, 0)

        used = tf.reduce_any(history.steps != 0, -1)
        s = tf.concat([history.steps, s], -2)
        y = tf.concat([history.gradient_changes, y], -2)
        occupied = tf.concat([used, accepted], -1)
        # Occupied rows move to the end in their order; the last m of them stay.
        rank = tf.cast(occupied, tf.int32) * tf.shape(occupied)[-1]
        order = tf.argsort(rank + tf.range(tf.shape(occupied)[-1]), axis=-1)[..., -self._memory :]
        batch_dims = order.shape.rank - 1
        s = tf.gather(s, order, axis=-2, batch_dims=batch_dims)
        y = tf.gather(y, order, axis=-2, batch_dims=batch_dims)
        occupied = tf.gather(occupied, order, axis=-1, batch_dims=batch_dims)

        triangle = tf.linalg.band_part(tf.matmul(s, y, transpose_b=True), 0, -1)
        diagonal = tf.where(occupied, tf.linalg.diag_part(triangle), 1)
        scale = history.scale
        if self._initial_scale is None:
            # Zero over one in an unused row, which is then not chosen.
            square = tf.where(occupied, tf.reduce_sum(y * y, -1), 1)
            scale = tf.where(occupied[..., -1], (diagonal / square)[..., -1], scale)
        return PairHistory(
            steps=tf.ensure_shape(s, history.steps.shape),
            gradient_changes=tf.ensure_shape(y, history.steps.shape),
            triangle=tf.ensure_shape(
                tf.linalg.set_diag(triangle, diagonal), history.triangle.shape
            ),
            scale=scale,
            count=history.count + tf.reduce_sum(tf.cast(accepted, tf.int32), -1),
        )

    def _damped(self, history: PairHistory, s: Tensor, y: Tensor) -> Tensor:
        """Steps s, mixed with B y where their curvature is too small."""
        image = self.apply(history, y)
        wanted = tf.reduce_sum(y * image, -1, keepdims=True)
        curvature = tf.reduce_sum(s * y, -1, keepdims=True)
        damping = tf.constant(self._damping, s.dtype)
        too_small = curvature < damping * wanted
        share = (1.0 - damping) * wanted / tf.where(too_small, wanted - curvature, 1.0)
        return tf.where(too_small, share * s + (1.0 - share) * image, s)

    def apply(self, history: PairHistory, vector: Tensor) -> Tensor:
        """Return B v.

        Args:
            history: the curvature state.
            vector: `[..., d]`.

        Returns:
            B v, `[..., d]`.
        """
        columns = self._to_columns(history, vector)
        return self._from_columns(history, self._apply_columns(history, columns), vector)

    def sample(
        self, history: PairHistory, seed: Tensor, batch_shape: Tensor | None = None
    ) -> Tensor:
        """Draw from N(0, B).

        Args:
            history: the curvature state.
            seed: stateless seed.
            batch_shape: shape of the chains; by default that of the history, which is a single
                draw for a shared one.

        Returns:
            Draws, `[..., d]`.
        """
        seeds = tfp.random.split_seed(stateless_seed(seed), n=2)
        batch = tf.shape(history.steps)[:-2] if batch_shape is None else batch_shape
        batch = tf.convert_to_tensor(batch, tf.int32)
        m, d = history.steps.shape[-2:]
        dtype = history.steps.dtype
        start = tf.random.stateless_normal(tf.concat([batch, [d]], 0), seeds[0], dtype=dtype)
        noise = tf.random.stateless_normal(tf.concat([batch, [m]], 0), seeds[1], dtype=dtype)
        x = tf.sqrt(history.scale)[..., None, None] * self._to_columns(history, start)
        diagonal = tf.sqrt(tf.linalg.diag_part(history.triangle))[..., None]
        source = diagonal * self._to_columns(history, noise)
        source -= tf.matmul(history.gradient_changes, x)
        weights = tf.linalg.triangular_solve(history.triangle, source, lower=False, adjoint=True)
        x += tf.matmul(history.steps, weights, transpose_a=True)
        return self._from_columns(history, x, start)

    def dense(self, history: PairHistory) -> Tensor:
        """Return B as a matrix, `[..., d, d]`."""
        identity = tf.eye(
            history.steps.shape[-1],
            batch_shape=tf.shape(history.steps)[:-2],
            dtype=history.steps.dtype,
        )
        return self._apply_columns(history, identity)

    def from_dense(self, matrix: Any, dtype: Any = None) -> PairHistory:
        """Return a history whose B equals a given inverse Hessian.

        The eigenvectors are conjugate directions, s = v and y = v / eigenvalue; after d of them
        the BFGS recursion has forgotten where it started. An `update` drops the pairs nearest to
        the starting matrix gamma I first, which then costs least.

        Args:
            matrix: B, symmetric positive definite, `[d, d]`, or `[..., d, d]` for one per chain.
            dtype: of the history; by default that of the matrix.

        Returns:
            The history.

        Raises:
            ValueError: if the matrix is not symmetric positive definite, or `memory` < d.
        """
        values, vectors = self._eigenpairs("matrix", matrix)
        return self._from_eigenpairs(values, vectors, dtype or np.asarray(matrix).dtype)

    def from_hessian(self, hessian: Any, dtype: Any = None) -> PairHistory:
        """Return a history whose B is the inverse of a given Hessian of -log density.

        Args:
            hessian: symmetric positive definite, `[d, d]` or `[..., d, d]`.
            dtype: of the history; by default that of the Hessian.

        Returns:
            The history.

        Raises:
            ValueError: if the Hessian is not symmetric positive definite, or `memory` < d.
        """
        values, vectors = self._eigenpairs("hessian", hessian)
        return self._from_eigenpairs(1.0 / values, vectors, dtype or np.asarray(hessian).dtype)

    def _eigenpairs(
        self, name: str, matrix: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        dense = np.asarray(matrix, np.float64)
        if dense.ndim < 2 or dense.shape[-1] != dense.shape[-2]:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected shape [..., d, d]. "
                f"Received: shape={dense.shape}"
            )
        if dense.shape[-1] > self._memory:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected at most `memory` = "
                f"{self._memory} dimensions. Received: shape={dense.shape}"
            )
        if (dense.ndim == 2) != self._shared:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected shape "
                f"{'[d, d]' if self._shared else '[..., d, d]'} with shared={self._shared}. "
                f"Received: shape={dense.shape}"
            )
        transposed = np.swapaxes(dense, -1, -2)
        symmetric = np.all(np.isfinite(dense)) and np.allclose(
            dense, transposed, rtol=1e-5, atol=1e-6 * float(np.abs(dense).max())
        )
        values, vectors = np.linalg.eigh((dense + transposed) / 2) if symmetric else (None, None)
        if values is None or vectors is None or not np.all(values > 0):
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected a symmetric positive definite "
                f"matrix. Received: {name}={matrix!r}"
            )
        return values, vectors

    def _from_eigenpairs(
        self, values: NDArray[np.float64], vectors: NDArray[np.float64], dtype: Any
    ) -> PairHistory:
        scale = np.exp(np.mean(np.log(values), -1))
        if self._initial_scale is not None:
            scale = np.full_like(scale, self._initial_scale)
        order = np.argsort(np.abs(np.log(values / scale[..., None])), -1)
        values = np.take_along_axis(values, order, -1)
        # Eigenvectors are the columns; pairs are rows.
        s = np.take_along_axis(np.swapaxes(vectors, -1, -2), order[..., None], -2)
        y = s / values[..., None]
        batch, d = values.shape[:-1], values.shape[-1]
        padding = np.zeros((*batch, self._memory - d, d))
        diagonal = np.concatenate([np.ones((*batch, self._memory - d)), 1.0 / values], -1)
        dtype = tf.as_dtype(dtype)
        return PairHistory(
            steps=tf.constant(np.concatenate([padding, s], -2), dtype),
            gradient_changes=tf.constant(np.concatenate([padding, y], -2), dtype),
            triangle=tf.constant(diagonal[..., None] * np.eye(self._memory), dtype),
            scale=tf.constant(scale, dtype),
            count=tf.fill(batch, d),
        )

    @staticmethod
    def _to_columns(history: PairHistory, vector: Tensor) -> Tensor:
        """Put vectors into the columns of a matrix: all in one if the history is shared."""
        vector = tf.convert_to_tensor(vector, history.steps.dtype)
        if history.steps.shape.rank == 2:
            return tf.transpose(tf.reshape(vector, [-1, vector.shape[-1]]))
        return vector[..., None]

    @staticmethod
    def _from_columns(history: PairHistory, columns: Tensor, like: Tensor) -> Tensor:
        like = tf.convert_to_tensor(like)
        if history.steps.shape.rank == 2:
            return tf.ensure_shape(tf.reshape(tf.transpose(columns), tf.shape(like)), like.shape)
        return columns[..., 0]

    @staticmethod
    def _apply_columns(history: PairHistory, columns: Tensor) -> Tensor:
        s, y, triangle, scale, _ = history
        scale = scale[..., None, None]
        diagonal = tf.linalg.diag_part(triangle)[..., None]
        a = tf.linalg.triangular_solve(triangle, tf.matmul(s, columns), lower=False)
        start = scale * (columns - tf.matmul(y, a, transpose_a=True))
        source = diagonal * a - tf.matmul(y, start)
        c = tf.linalg.triangular_solve(triangle, source, lower=False, adjoint=True)
        return start + tf.matmul(s, c, transpose_a=True)
