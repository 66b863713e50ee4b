"""Images and labels -> a classifier by Keras's fit; stopped after any epoch, it goes on with the next.

    python examples/classify_keras.py --images train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz --epochs 2

--images takes what `headrace ingest --samples` takes. Epochs are passes of the loader, each in an order of its own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import tensorflow as tf

import headrace as hr
from headrace.interop.tf import tf_dataset


def network(shape: tuple[int, ...], classes: int) -> tf.keras.Model:
    """Two convolutions for small images."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input(shape),
            layers.Reshape((*shape[:2], *(shape[2:] or (1,)))),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("classify-keras"))
    parser.add_argument("--size", type=int, default=64, help="of images that are decoded")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()

    hr.ingest(options.images, options.out / "store", samples=hr.Samples())
    store = hr.SampleStore.open(options.out / "store")
    decoded = isinstance(store.features["image"], hr.store.Image)
    image = hr.ImageTransform(size=options.size, crop="random_resized", flip=0.5) if decoded else None
    loader = hr.Loader(
        store, batch_size=options.batch_size, seed=1, epochs=1, image=image, columns=("image", "label"),
        output=hr.BatchOptions(framework="numpy"),
    )  # fmt: skip
    dataset = tf_dataset(loader).map(lambda batch: (batch["image"], batch["label"]))

    model, saved, state = None, options.out / "model.keras", options.out / "loader.json"
    if state.exists():
        loader.load_state_dict(json.loads(state.read_text()))
        model = tf.keras.models.load_model(saved)
        print(f"continued at position {loader.position:,}")
    if model is None:
        model = network(tuple(dataset.element_spec[0].shape[1:]), len(store.features["label"].names))
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf.keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])

    def save(epoch: int, logs: dict[str, float]) -> None:
        model.save(saved)
        state.write_text(json.dumps({**loader.state_dict(), "position": (epoch + 1) * loader.num_rows}))
        print(f"epoch {epoch} loss {logs['loss']:.3f} accuracy {logs['accuracy']:.3f}")

    model.fit(
        dataset,
        initial_epoch=loader.position // loader.num_rows,
        epochs=options.epochs,
        shuffle=False,  # the loader has shuffled, over all rows
        verbose=0,
        callbacks=[tf.keras.callbacks.LambdaCallback(on_epoch_end=save)],
    )
    loader.close()


if __name__ == "__main__":
    main()
