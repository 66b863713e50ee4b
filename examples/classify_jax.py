"""Images and labels -> a classifier in JAX, rows placed over all devices; stopped anywhere, it goes on.

    python examples/classify_jax.py --images train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz --out classify-jax

--images takes what `headrace ingest --samples` takes. flax is not needed: parameters are a dict, the step is jitted.
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

Weights = dict[str, jax.Array]


def logits(weights: Weights, image: jax.Array) -> jax.Array:
    """uint8 [B, H, W] or [B, H, W, C] -> [B, classes]: a convolution, means of 4 x 4 places, two layers."""
    x = (image if image.ndim == 4 else image[..., None]).astype(jnp.float32) / 255
    x = jax.lax.conv_general_dilated(
        x, weights["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.image.resize(jax.nn.relu(x), (len(x), 4, 4, x.shape[-1]), "linear").reshape(len(x), -1)
    return jax.nn.relu(x @ weights["hidden"]) @ weights["out"]


def loss_of(weights: Weights, image: jax.Array, label: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats."""
    scores = jax.nn.log_softmax(logits(weights, image))
    return -jnp.take_along_axis(scores, label[:, None], axis=-1).mean()


@partial(jax.jit, donate_argnums=0)
def step(weights: Weights, image: jax.Array, label: jax.Array) -> tuple[Weights, jax.Array]:
    """One step of gradient descent."""
    loss, slope = jax.value_and_grad(loss_of)(weights, image, label)
    return jax.tree.map(lambda w, g: w - 0.2 * g, weights, slope), loss


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("classify-jax"))
    parser.add_argument("--size", type=int, default=64, help="of images that are decoded")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()

    hr.ingest(options.images, options.out / "store", samples=hr.Samples())
    store = hr.SampleStore.open(options.out / "store")
    decoded = isinstance(store.features["image"], hr.store.Image)
    image = hr.ImageTransform(size=options.size, crop="random_resized", flip=0.5) if decoded else None
    loader = hr.Loader(
        store, batch_size=options.batch_size, seed=1, image=image, columns=("image", "label"),
        output=hr.BatchOptions(framework="numpy"),
    )  # fmt: skip

    channels = 3 if decoded else (*store.features["image"].shape, 1)[2]
    rng, classes = np.random.default_rng(0), len(store.features["label"].names)
    shapes = {"kernel": (5, 5, channels, 32), "hidden": (512, 128), "out": (128, classes)}
    weights = {
        name: jnp.asarray(rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape), jnp.float32)
        for name, shape in shapes.items()
    }
    checkpoint = options.out / "checkpoint.npz"
    if checkpoint.exists():
        with np.load(checkpoint) as saved:
            weights = {name: jnp.asarray(saved[name]) for name in weights}
            loader.load_state_dict(json.loads(str(saved["loader"])))
        print(f"continued at position {loader.position:,}")

    rows = NamedSharding(Mesh(np.array(jax.devices()), ("dp",)), PartitionSpec("dp"))
    done = loader.position // loader.batch_size
    for batch in jax_batches(loader, sharding=rows) if done < options.steps else ():
        weights, loss = step(weights, batch["image"], batch["label"])
        done += 1
        if done % 100 == 0 or done >= options.steps:
            print(f"step {done} loss {loss:.3f}")
            np.savez(checkpoint, loader=json.dumps(loader.state_dict()), **weights)
        if done >= options.steps:
            break
    loader.close()


if __name__ == "__main__":
    main()
