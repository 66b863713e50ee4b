"""A store -> a small language model in Keras, by tf.data: epochs, validation, labels that are not learnt.

python examples/keras_fit.py --store store --epochs 3
"""

from __future__ import annotations

import argparse

import tensorflow as tf

import headrace as hr
from headrace.interop.tf import tf_dataset


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True)
    parser.add_argument("--validation", help="another store; the same by default")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()

    # A document's first token cannot be predicted from the document before: its label is -100.
    output = hr.BatchOptions(framework="numpy", mask_document_starts=True)
    shape = {"seq_len": options.seq_len, "batch_size": options.batch_size, "epochs": 1, "output": output}
    store = hr.Store.open(options.store)
    train = hr.Loader(store, **shape, seed=7)  # each epoch of fit is a pass, in its own order
    validation = hr.Loader(hr.Store.open(options.validation or options.store), **shape, shuffle=False)

    model = tf.keras.Sequential(
        [
            tf.keras.layers.Embedding(store.vocab_size, 64),
            tf.keras.layers.Conv1D(64, 8, padding="causal", activation="relu"),
            tf.keras.layers.Dense(store.vocab_size),
        ]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)
    model.compile(tf.keras.optimizers.Adam(3e-3), loss)
    datasets = [
        tf_dataset(loader).map(lambda batch: (batch["input_ids"], batch["labels"]))
        for loader in (train, validation)
    ]
    # shuffle=False: the loader has shuffled, over all rows.
    history = model.fit(
        datasets[0], validation_data=datasets[1], epochs=options.epochs, shuffle=False, verbose=0
    )
    for epoch, (loss, held_out) in enumerate(
        zip(history.history["loss"], history.history["val_loss"], strict=True)
    ):
        print(f"epoch {epoch} loss {loss:.3f} validation {held_out:.3f}")
    train.close()
    validation.close()


if __name__ == "__main__":
    main()
