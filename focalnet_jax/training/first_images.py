"""Keeps the first batch of an evaluation, for figures that are drawn at the end of the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from focalnet_jax.data.host import Batch
from focalnet_jax.distributed.mesh import compiler_options, put_batch, replicated
from focalnet_jax.training.state import TrainSpec, Variables


class FirstImages:
    """Computes arrays for some images of the first batch of an evaluation.

    The images are evenly spaced in the batch, because neighbours in a data set are often similar, for example if they
    are from the same folder.

    Args:
      spec: `TrainSpec` of the run.
      count: number of images, limited by the size of a batch; 0 for no images.
      look: function of the model's variables and a batch, which returns a pytree of arrays `[B, ...]`. It is jitted.
    """

    def __init__(self, spec: TrainSpec, count: int, look: Callable[[Variables, dict[str, jax.Array]], Any]):
        self.spec, self.count = spec, count
        self._batch: Batch | None = None
        mesh = spec.mesh

        def first(variables: Variables, batch: dict[str, jax.Array]) -> Any:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                arrays = look(variables, batch)
            # The model processes the whole batch, because model and batch may be sharded.
            mask = batch["mask"]
            shown = min(count, len(mask))
            real = jnp.sum(mask > 0, dtype=jnp.int32)
            places = jnp.arange(shown) * jnp.maximum(real, shown) // max(1, shown)
            return jax.tree.map(lambda leaf: leaf[places], (mask, arrays))

        self._first = jax.jit(first, out_shardings=replicated(mesh), compiler_options=compiler_options(mesh))

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields the batches of an evaluation and keeps the first one."""
        for number, batch in enumerate(batches):
            if number == 0 and self.count:
                self._batch = batch
            yield batch

    def arrays(self, variables: Variables) -> Any | None:
        """Returns the result of `look` for the chosen images of the batch that `watch` kept, and discards the batch.

        Examples that only pad the batch are left out. Returns None if no batch was kept. All processes must call this
        method.
        """
        if self._batch is None:
            return None
        mask, arrays = jax.device_get(self._first(variables, put_batch(self._batch, self.spec.mesh)))
        self._batch = None  # frees a whole batch of images
        return jax.tree.map(lambda leaf: leaf[mask > 0], arrays)
