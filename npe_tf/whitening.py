"""Coordinates in which the joint posterior is close to a standard normal.

A state is one vector: N^3 numbers for the white noise and one for each bias parameter. Three linear
maps, the `Frame`, take it to the field and the parameters:

* every Fourier mode of the field is multiplied by a width, one for each shell of wavenumber: the
  haloes pin the largest scales to a hundredth of their prior width and leave the smallest free;
* the modes of the largest scales and the parameters make the *block*. They determine one another
  (what a larger field explains, a larger bias explains as well) and are mixed by a dense matrix,
  learnt from the curvature of the posterior in the block;
* the parameters are in the coordinates of `npe_tf.bias.standardised`.

The Fourier transforms of the field are needed anyway, so the widths cost nothing, and the block, a
matrix of a thousand rows, less than a hundredth of a gradient. The prior is evaluated in Fourier
space. A frame is a constant linear map whose volume element does not matter for sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.bias.standardised import ParameterCoordinates, parameter_coordinates
from npe_tf.fourier import irfft3d, rfft3d
from npe_tf.posterior import FieldPosterior

__all__ = ["STANDING", "Frame", "WhitenedPosterior"]

Tensor = Any
Array = NDArray[np.float64]

_SMALLEST_CURVATURE = 0.1
STANDING = 1e-7
"""Unit of parameters that are not to move, in their coordinates."""


class Frame(NamedTuple):
    """Linear map from a state to modes and parameters; tensors or arrays.

    Attributes:
        width: of each shell of wavenumber, the last being that of modes without power, `[K + 1]`.
        centre: parameters (in their coordinates) at the origin, float64 `[P]`.
        mixing: of the block, `[M, M]`: its modes, of unit prior variance, then the parameters.
    """

    width: Any
    centre: Any
    mixing: Any


class WhitenedPosterior:
    """A posterior as a function of states in a frame.

    Args:
        posterior: the target.
        num_dense_shells: shells of wavenumber whose modes are in the block, each one fundamental
            wavenumber wide; 0 for a block of the parameters alone.

    Attributes:
        size: of a state, N^3 + P.
        block_size: M.
        num_shells: K.
        parameters: coordinates of the bias parameters.

    Raises:
        ValueError: if the mesh has no such shells.
    """

    def __init__(self, posterior: FieldPosterior, num_dense_shells: int = 4) -> None:
        """Find the modes of the block."""
        grid = posterior.grid
        count = num_dense_shells
        if (
            isinstance(count, bool)
            or not isinstance(count, (int, np.integer))
            or (not 0 <= count <= grid.num_cells // 2)
        ):
            raise ValueError(
                "Invalid value for argument `num_dense_shells`. Expected an integer from 0 to "
                f"{grid.num_cells // 2}. Received: num_dense_shells={num_dense_shells!r}"
            )
        self.posterior = posterior
        self.num_shells = grid.num_cells // 2
        self.dtype = tf.as_dtype(posterior.bias.dtype)
        self._num_field = grid.num_cells**3
        self._num_parameters = posterior.bias.parameters.size
        self.size = self._num_field + self._num_parameters
        # the same for every chain and every run: standardisation must not depend on a seed
        white_noise = tf.random.stateless_normal(grid.shape, [0, 0], dtype=self.dtype)
        self.parameters: ParameterCoordinates = parameter_coordinates(
            posterior.bias, posterior.density(white_noise).numpy()
        )
        self._shells = np.where(grid.alive, grid.shells(), self.num_shells)
        self._find_block(count)
        self._parseval = np.broadcast_to(grid.hermitian_weight, grid.modes_shape) / self._num_field

    def _find_block(self, num_dense_shells: int) -> None:
        grid = self.posterior.grid
        x, y, z = (np.broadcast_to(f, grid.modes_shape) for f in grid.frequencies)
        # of k and -k, both of which are stored where the last frequency is zero, only one
        independent = (z > 0) | (y > 0) | ((y == 0) & (x > 0))
        chosen = grid.alive & independent & (self._shells < num_dense_shells)
        self._block = np.flatnonzero(chosen)
        on_plane = np.flatnonzero(z[chosen] == 0)
        mirrored = [-f[chosen][on_plane] % grid.num_cells for f in (x, y)]
        self._on_plane = on_plane
        self._mirror = np.ravel_multi_index(
            (*mirrored, np.zeros_like(on_plane)), grid.modes_shape
        ).astype(np.int64)
        self._place = np.concatenate([self._block, self._mirror])[:, np.newaxis]
        self.block_size = 2 * len(self._block) + self._num_parameters
        free = np.ones(grid.modes_shape)
        free.ravel()[self._place[:, 0]] = 0.0
        self._free = free
        # of a mode with its mirror image: two real numbers of unit variance
        self._unit = grid.num_cells**1.5 / math.sqrt(2.0)
        self._block_shells = np.tile(self._shells.ravel()[self._block], 2)

    # --- states ---------------------------------------------------------------------------------

    def initial_frame(self, centre: ArrayLike) -> Frame:
        """The frame of the prior of the field and of unit steps of the parameters.

        Args:
            centre: coordinates of the parameters, `[P]`.
        """
        return Frame(
            np.ones(self.num_shells + 1),
            np.array(centre, dtype=np.float64),
            np.eye(self.block_size, dtype=self.dtype.as_numpy_dtype),
        )

    def diagonal_frame(self, width: ArrayLike, centre: ArrayLike, mixing: ArrayLike) -> Frame:
        """A frame whose block mixes the parameters alone.

        Args:
            width: of each shell, `[K + 1]`.
            centre: coordinates of the parameters, `[P]`.
            mixing: of the parameters, `[P, P]`.
        """
        width = np.asarray(width, dtype=np.float64)
        full = np.diag(np.append(width[self._block_shells], np.zeros(self._num_parameters)))
        full[-self._num_parameters :, -self._num_parameters :] = mixing
        return Frame(
            width, np.array(centre, dtype=np.float64), full.astype(self.dtype.as_numpy_dtype)
        )

    def tensors(self, frame: Frame) -> Frame:
        """A frame as tensors, of the types that compiled functions take."""
        return Frame(
            tf.constant(frame.width, tf.float64),
            tf.constant(frame.centre, tf.float64),
            tf.constant(frame.mixing, self.dtype),
        )

    def state(self, white_noise: ArrayLike, coordinates: ArrayLike, frame: Frame) -> Array:
        """The state of a field and parameters.

        Args:
            white_noise: `[N, N, N]`.
            coordinates: of the parameters, `[P]`.
            frame: to which the state belongs.

        Returns:
            `[size]`, of the posterior's dtype.
        """
        modes = np.fft.rfftn(np.asarray(white_noise, dtype=np.float64))
        picked = modes.ravel()[self._block] / self._unit
        offset = np.asarray(coordinates, dtype=np.float64) - np.asarray(frame.centre)
        block = np.concatenate([picked.real, picked.imag, offset])
        block = np.linalg.solve(np.asarray(frame.mixing, dtype=np.float64), block)
        modes /= np.asarray(frame.width, dtype=np.float64)[self._shells]
        half = len(self._block)
        picked = self._unit * (block[:half] + 1j * block[half : 2 * half])
        flat = modes.reshape(-1)
        flat[self._block] = picked
        flat[self._mirror] = picked[self._on_plane].conj()
        field = np.fft.irfftn(modes, s=np.shape(white_noise), axes=(0, 1, 2))
        joined = np.concatenate([field.ravel(), block[2 * half :]])
        return joined.astype(self.dtype.as_numpy_dtype)

    def _to_block(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Modes of the field part of a vector, and its components along the block, `[M]`."""
        field = tf.reshape(vector[: self._num_field], self.posterior.grid.shape)
        modes = rfft3d(field)
        picked = tf.gather(tf.reshape(modes, [-1]), self._block)
        unit = tf.constant(1.0 / self._unit, self.dtype)
        parts = [unit * tf.math.real(picked), unit * tf.math.imag(picked)]
        return modes, tf.concat([*parts, vector[self._num_field :]], 0)

    def _from_block(self, block: Tensor) -> Tensor:
        """Modes `[N, N, N//2 + 1]` of which the block has components `[M]`."""
        half = len(self._block)
        unit = tf.constant(self._unit, self.dtype)
        picked = tf.complex(unit * block[:half], unit * block[half : 2 * half])
        values = tf.concat([picked, tf.math.conj(tf.gather(picked, self._on_plane))], 0)
        shape = self.posterior.grid.modes_shape
        return tf.reshape(tf.scatter_nd(self._place, values, [math.prod(shape)]), shape)

    def _unwhiten(self, vector: Tensor, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
        """Modes outside of the block, components of the block, coordinates of the parameters."""
        modes, block = self._to_block(vector)
        width = tf.gather(tf.cast(frame.width, self.dtype), self._shells)
        width *= tf.constant(self._free, self.dtype)
        block = tf.linalg.matvec(tf.cast(frame.mixing, self.dtype), block)
        offset = block[block.shape[0] - self._num_parameters :]
        coordinates = tf.cast(frame.centre, tf.float64) + tf.cast(offset, tf.float64)
        return modes * tf.cast(width, modes.dtype), block, coordinates

    def white_noise(self, vector: Tensor, frame: Frame) -> Tensor:
        """White noise `[N, N, N]` of a state `[size]`."""
        modes, block, _ = self._unwhiten(vector, frame)
        return irfft3d(modes + self._from_block(block))

    def coordinates(self, vector: Tensor, frame: Frame) -> Tensor:
        """Coordinates of the parameters of a state, float64 `[P]`."""
        return self._unwhiten(vector, frame)[2]

    def theta(self, vector: Tensor, frame: Frame) -> Tensor:
        """Bias parameters of a state, float64 `[P]`."""
        return self.parameters.theta(self.coordinates(vector, frame))[0]

    # --- densities ------------------------------------------------------------------------------

    def log_prob(self, vector: Tensor, frame: Frame, inverse_temperature: Tensor = 1.0) -> Tensor:
        """Log density of a state, but for a constant of the frame.

        Args:
            vector: `[size]`.
            frame: to which it belongs.
            inverse_temperature: power of the likelihood.

        Returns:
            Float64 scalar.
        """
        log_posterior, log_volume = self._log_posterior(vector, frame, inverse_temperature)
        return log_posterior + log_volume

    def log_posterior(self, vector: Tensor, frame: Frame) -> Tensor:
        """Log posterior density of field and bias parameters, as `FieldPosterior.log_prob`."""
        return self._log_posterior(vector, frame, 1.0)[0]

    def _log_posterior(self, vector: Tensor, frame: Frame, beta: Tensor) -> tuple[Tensor, Tensor]:
        free, block, coordinates = self._unwhiten(vector, frame)
        delta, prior = self._field(free, block)
        theta, log_volume = self.parameters.theta(coordinates)
        likelihood = self.posterior.log_likelihood(delta, tf.cast(theta, self.dtype))
        prior += self.posterior.log_prior_parameters(theta)
        return tf.cast(beta, tf.float64) * likelihood + prior, log_volume

    def _field(self, free: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        """Evolved overdensity, and log prior of the field."""
        modes = free + self._from_block(block)
        delta = self.posterior.gravity(self.posterior.initial_field.amplify(modes))
        power = tf.square(tf.math.real(free)) + tf.square(tf.math.imag(free))
        squares = tf.reduce_sum(
            tf.cast(power * tf.constant(self._parseval, self.dtype), tf.float64)
        )
        in_block = block[: block.shape[0] - self._num_parameters]
        squares += tf.reduce_sum(tf.cast(tf.square(in_block), tf.float64))
        return delta, -0.5 * squares - 0.5 * self._num_field * math.log(2.0 * math.pi)

    def value_and_gradient(
        self, vector: Tensor, frame: Frame, inverse_temperature: Tensor = 1.0
    ) -> tuple[Tensor, Tensor]:
        """`log_prob` and its gradient `[size]`."""
        with tf.GradientTape() as tape:
            tape.watch(vector)
            value = self.log_prob(vector, frame, inverse_temperature)
        return value, tape.gradient(value, vector)

    # --- curvature ------------------------------------------------------------------------------

    def hessian_rows(
        self, vector: Tensor, frame: Frame, numbers: Tensor, step: float = 0.1
    ) -> Tensor:
        """Rows of the Hessian of -log density along the block, by central differences.

        Args:
            vector: where, `[size]`.
            frame: to which it belongs.
            numbers: of the rows, int `[n]`.
            step: of the differences, in units of the frame.

        Returns:
            `[n, M]`; two gradients each.
        """

        def row(number: Tensor) -> Tensor:
            unit = tf.one_hot(number, self.block_size, dtype=self.dtype)
            return self.hessian_product(vector, frame, unit, step)

        return tf.map_fn(row, numbers, fn_output_signature=self.dtype, parallel_iterations=1)

    def hessian_product(
        self, vector: Tensor, frame: Frame, direction: Tensor, step: float = 0.1
    ) -> Tensor:
        """The Hessian of -log density in the block times a direction, by central differences.

        Args:
            vector: where, `[size]`.
            frame: to which it belongs.
            direction: in the block, `[M]`.
            step: of the differences, in units of the direction.

        Returns:
            `[M]`; two gradients.
        """
        field = irfft3d(self._from_block(direction))
        shift = tf.concat([tf.reshape(field, [-1]), direction[-self._num_parameters :]], 0)
        shift *= tf.constant(step, self.dtype)
        ahead, behind = (
            self.value_and_gradient(moved, frame)[1] for moved in (vector + shift, vector - shift)
        )
        return self._to_block(behind - ahead)[1] / (2.0 * step)

    def relaxed(
        self, frame: Frame, product: Callable[[Array], Array], largest: float, num_products: int
    ) -> tuple[Frame, Array]:
        """The frame in which no direction of the block is stiffer than allowed, here.

        The largest curvatures are found by Lanczos' iteration (Golub & Van Loan 2013, section
        10.1) with full orthogonalisation, which needs few products for those that stand out.

        Args:
            frame: in whose units the Hessian is.
            product: the Hessian times a direction `[M]`.
            largest: curvature that is allowed; steeper directions are shortened to it.
            num_products: to be made.

        Returns:
            A frame that differs in its mixing, and the curvatures found, descending.
        """
        size = self.block_size
        count = min(num_products, size)
        basis = np.zeros((count + 1, size))
        basis[0] = np.random.default_rng(size).standard_normal(size)
        basis[0] /= np.linalg.norm(basis[0])
        diagonal, off = np.zeros(count), np.zeros(count)
        for i in range(count):
            image = np.array(product(basis[i]), dtype=np.float64)
            diagonal[i] = image @ basis[i]
            for _ in range(2):
                image -= basis[: i + 1].T @ (basis[: i + 1] @ image)
            off[i] = np.linalg.norm(image)
            if not off[i] > 1e-6 * np.abs(diagonal[: i + 1]).max():
                count = i + 1
                break
            basis[i + 1] = image / off[i]
        inner = np.diag(diagonal[:count]) + np.diag(off[: count - 1], 1)
        values, vectors = np.linalg.eigh(inner + np.diag(off[: count - 1], -1))
        steep = values > largest
        directions = basis[:count].T @ vectors[:, steep]
        shortened = np.sqrt(largest / values[steep]) - 1.0
        mixing = np.asarray(frame.mixing, dtype=np.float64)
        mixing = mixing + ((mixing @ directions) * shortened) @ directions.T
        relaxed = frame._replace(mixing=mixing.astype(self.dtype.as_numpy_dtype))
        return relaxed, values[::-1]

    def shell_curvature(
        self, vector: Tensor, frame: Frame, inverse_temperature: Tensor, seed: Tensor, step: Tensor
    ) -> Tensor:
        """Mean curvature of -log density in each shell of modes, by one random probe each.

        Args:
            vector: where, `[size]`; the mixing of the frame must be diagonal in the field.
            frame: to which it belongs.
            inverse_temperature: power of the likelihood.
            seed: stateless seed.
            step: of the central differences, in units of the frame.

        Returns:
            `[K]`, in units of the prior's; two gradients each.
        """
        grid = self.posterior.grid
        signs = tf.random.stateless_uniform(grid.shape, seed, 0, 2, tf.int32)
        modes = rfft3d(tf.cast(2 * signs - 1, self.dtype))

        def curvature(shell: Tensor) -> Tensor:
            inside = tf.cast(tf.equal(self._shells, tf.cast(shell, tf.int64)), modes.dtype)
            probe = tf.reshape(irfft3d(modes * inside), [-1])
            shift = tf.pad(probe, [[0, self._num_parameters]])
            ahead, behind = (
                self.value_and_gradient(vector + sign * step * shift, frame, inverse_temperature)[1]
                for sign in (1.0, -1.0)
            )
            along = tf.reduce_sum(tf.cast((behind - ahead) * shift, tf.float64))
            norm = tf.reduce_sum(tf.cast(tf.square(probe), tf.float64))
            width = tf.cast(tf.gather(frame.width, shell), tf.float64)
            return along / (2.0 * tf.cast(step, tf.float64) * norm * tf.square(width))

        return tf.map_fn(
            curvature,
            tf.range(self.num_shells),
            fn_output_signature=tf.float64,
            parallel_iterations=1,
        )

    def refined(self, frame: Frame, hessian: ArrayLike) -> Frame:
        """The frame in which a Hessian of the block becomes the identity.

        Args:
            frame: in whose units the Hessian is.
            hessian: `[M, M]`; its symmetric part counts. Directions of little or negative
                curvature count as curved by a tenth.

        Returns:
            A frame that differs in its mixing.
        """
        matrix = np.asarray(hessian, dtype=np.float64)
        values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        values = np.maximum(np.abs(values), _SMALLEST_CURVATURE)
        root = (vectors / np.sqrt(values)) @ vectors.T
        mixing = np.asarray(frame.mixing, dtype=np.float64) @ root
        return frame._replace(mixing=mixing.astype(self.dtype.as_numpy_dtype))

    def rescaled(self, frame: Frame, rescaling: ArrayLike) -> Frame:
        """The frame whose parameters are in other units.

        Args:
            frame: in whose units the map is.
            rescaling: parameters of a state in `frame` as a map of those in the result, `[P, P]`.

        Returns:
            A frame that differs in its mixing.
        """
        mixing = np.array(frame.mixing, dtype=np.float64)
        own = mixing[:, -self._num_parameters :]
        mixing[:, -self._num_parameters :] = own @ np.asarray(rescaling, dtype=np.float64)
        return frame._replace(mixing=mixing.astype(self.dtype.as_numpy_dtype))

    def standing(self, frame: Frame, centre: ArrayLike) -> Frame:
        """The frame of a field whose parameters stand.

        Args:
            frame: what was learnt of field and parameters together.
            centre: coordinates of the parameters, `[P]`.

        Returns:
            A frame whose modes have the covariance that those of `frame` have given the parameters,
            and whose parameters hardly move.
        """
        inverse = np.linalg.inv(np.asarray(frame.mixing, dtype=np.float64))
        count = self.block_size - self._num_parameters
        own = inverse[:, :count]
        mixing = STANDING * np.eye(self.block_size)
        mixing[:count, :count] = np.linalg.inv(np.linalg.cholesky(own.T @ own)).T
        return Frame(
            np.asarray(frame.width, dtype=np.float64),
            np.array(centre, dtype=np.float64),
            mixing.astype(self.dtype.as_numpy_dtype),
        )

    def triangular(self, frame: Frame) -> Frame:
        """A frame of the same units, up to a rotation, whose parameters move nothing else.

        Args:
            frame: any.

        Returns:
            A frame of lower triangular mixing.
        """
        mixing = np.asarray(frame.mixing, dtype=np.float64)
        # of a matrix times its transpose the root, without forming it
        triangle = np.asarray(np.linalg.qr(mixing.T)[1]).T
        triangle *= np.where(np.diag(triangle) < 0.0, -1.0, 1.0)
        return frame._replace(mixing=triangle.astype(self.dtype.as_numpy_dtype))
