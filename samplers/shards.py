"""States that are distributed over the replicas of a `tf.distribute` strategy."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from samplers.target import Tensor

__all__ = ["Shards"]


class Shards:
    """Sums over, and randomness of, the replicas that hold the parts of one state.

    To be used inside of ``strategy.run``. As in TFP, the target returns the log density of the
    whole state on every replica and its gradient with respect to the replica's own share.
    """

    @classmethod
    def of(cls, axis_names: Any) -> Shards | None:
        """Return the shards that TFP's `experimental_shard_axis_names` speak of, if any.

        Raises:
            ValueError: if some parts of the state are distributed and others are not: an inverse
                Hessian that couples them would need them in one place.
        """
        # a name and a list of names per part are both "distributed"; None and () are not
        names = axis_names if isinstance(axis_names, (list, tuple)) else [axis_names]
        distributed = [bool(name) for name in names]
        if not any(distributed):
            return None
        if not all(distributed):
            raise ValueError(
                "Invalid value for argument `experimental_shard_axis_names`. Expected all parts "
                "of the state to be distributed, or none. Received: "
                f"experimental_shard_axis_names={axis_names!r}"
            )
        return cls()

    def total(self, value: Tensor) -> Tensor:
        """Sum over the replicas, the same on all."""
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, value)

    def own_seed(self, seed: Tensor) -> Tensor:
        """A seed of this replica."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.random.experimental.stateless_fold_in(seed, tf.cast(replica, tf.int32))
