"""A store -> a small language model in JAX, rows placed over all devices, exact resume.

python examples/jax_loop.py --store store --steps 100
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import headrace as hr
from headrace.interop.jax import jax_batches

WIDTH, SEEN = 64, 8


def logits(weights: dict[str, jax.Array], ids_BT: jax.Array) -> jax.Array:
    """The last SEEN tokens of each place -> the next one (Bengio et al. 2003)."""
    padded = jnp.pad(ids_BT, ((0, 0), (SEEN - 1, 0)))
    seen = jnp.stack([padded[:, i : i + ids_BT.shape[1]] for i in range(SEEN)], axis=-1)
    x = weights["tok"][seen].reshape(*ids_BT.shape, SEEN * WIDTH)
    return jnp.tanh(x @ weights["mix"]) @ weights["tok"].T


def loss_of(weights: dict[str, jax.Array], ids_BT: jax.Array, labels_BT: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats."""
    scores = jax.nn.log_softmax(logits(weights, ids_BT))
    return -jnp.take_along_axis(scores, labels_BT[..., None], axis=-1).mean()


@partial(jax.jit, donate_argnums=0)
def step(
    weights: dict[str, jax.Array], ids_BT: jax.Array, labels_BT: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
    """One step of gradient descent."""
    loss, slope = jax.value_and_grad(loss_of)(weights, ids_BT, labels_BT)
    return jax.tree.map(lambda w, g: w - 0.5 * g, weights, slope), loss


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--checkpoint", type=Path, default=Path("jax-loop.npz"))
    options = parser.parse_args()

    store = hr.Store.open(options.store)
    loader = hr.Loader(
        store, seq_len=64, batch_size=options.batch_size, seed=7, output=hr.BatchOptions(framework="numpy")
    )
    rng = np.random.default_rng(0)
    weights = {
        "tok": jnp.asarray(rng.normal(0, 0.1, (store.vocab_size, WIDTH)), jnp.float32),
        "mix": jnp.asarray(rng.normal(0, 0.05, (SEEN * WIDTH, WIDTH)), jnp.float32),
    }
    if options.checkpoint.exists():
        with np.load(options.checkpoint) as saved:
            weights = {name: jnp.asarray(saved[name]) for name in weights}
            loader.load_state_dict(json.loads(str(saved["loader"])))

    rows = NamedSharding(Mesh(np.array(jax.devices()), ("dp",)), PartitionSpec("dp"))
    for batch in jax_batches(loader, sharding=rows):
        weights, loss = step(weights, batch["input_ids"], batch["labels"])
        done = loader.position // loader.batch_size
        if done % 20 == 0 or done >= options.steps:
            print(f"step {done} loss {loss:.3f}")
            np.savez(options.checkpoint, loader=json.dumps(loader.state_dict()), **weights)
        if done >= options.steps:
            break
    loader.close()


if __name__ == "__main__":
    main()
