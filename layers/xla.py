"""Whether the code being traced is to be compiled by XLA."""

from __future__ import annotations

import tensorflow as tf

__all__ = ["is_compiling"]


def is_compiling() -> bool:
    """Whether this is traced for a ``tf.function(jit_compile=True)``, however deep inside it.

    TensorFlow tells it only by the control-flow context of the graph, of which there is no public
    reading; where it cannot be read the answer is no. Automatic clustering is not seen.
    """
    if tf.executing_eagerly():
        return False
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = getattr(graph, "_get_control_flow_context", lambda: None)()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False
