"""A log of who did what when -> a sequential recommender, its recall and NDCG beside simple ones, and predictions.

    python examples/recommend.py --log ml-100k.inter --out recommend
    python examples/recommend.py --log clicks.csv --user-field visitor --item-field page --out recommend

The last item of each user is for the test, the one before for validation; every other item that the user does not have
yet is ranked (no sampled candidates). Recommenders: the most popular items; items that the same users have (item-kNN,
cosine); a transformer that reads a user's items as a document of tokens, trained by `headrace.train`. Kill it and run
it again: it goes on where it was. The likeliest items of each user are in OUT/predictions.parquet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import headrace as hr
from headrace.interactions import ITEMS_FILE, USERS_FILE, read_keys
from headrace.training import ShapeOptions

RESAMPLES = 2_000


def histories(path: Path) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Items and targets of each row of a store of users, and the numbers of the users."""
    store = hr.SampleStore.open(path)
    columns = store.gather(np.arange(store.num_rows))
    targets = columns.get("targets")
    items = [columns["items"][row] for row in range(store.num_rows)]
    return items, [] if targets is None else [targets[row] for row in range(store.num_rows)], columns["user"]


def popularity(train: list[np.ndarray], users: list[np.ndarray], num_items: int) -> np.ndarray:
    """Scores [users, items]: how many users have the item."""
    counts = np.bincount(np.concatenate(train), minlength=num_items)
    return np.tile(counts.astype(np.float32), (len(users), 1))


def item_knn(
    train: list[np.ndarray], users: list[np.ndarray], num_items: int, neighbours: int = 100
) -> np.ndarray:
    """Scores [users, items]: the cosine of the item with those of the user, over its nearest items."""
    have = np.zeros((len(train), num_items), np.float32)
    for row, items in enumerate(train):
        have[row, items] = 1
    together = have.T @ have
    norms = np.sqrt(np.maximum(np.diag(together), 1))
    cosine = together / norms[:, None] / norms
    np.fill_diagonal(cosine, 0)
    if neighbours < num_items:
        least = np.partition(cosine, -neighbours, axis=1)[:, -neighbours][:, None]
        cosine[cosine < least] = 0
    scores = [cosine[np.unique(items)].sum(axis=0) for items in users]
    return np.stack(scores)


@torch.inference_mode()
def sequential(run: Path, users: list[np.ndarray], num_items: int, longest: int) -> np.ndarray:
    """Scores [users, items]: log-probabilities of the next item after the user's last ones."""
    model, _ = hr.load_model(run)
    scores = np.empty((len(users), num_items), np.float32)
    lengths = np.array([min(len(items), longest) for items in users])
    for length in np.unique(lengths):  # rows of one length need no padding
        rows = np.flatnonzero(lengths == length)
        for chunk in np.array_split(rows, -(-len(rows) // 64)):
            ids_BT = torch.from_numpy(np.stack([users[row][-length:] for row in chunk]).astype(np.int64))
            scores[chunk] = model(ids_BT)[:, -1].log_softmax(-1)[:, :num_items].numpy()
    return scores


def ranking_scores(
    scores: np.ndarray, users: list[np.ndarray], targets: list[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Recall@k and NDCG@k of each user; what a user has is not ranked, except where it is a target."""
    recall, ndcg = np.zeros(len(users)), np.zeros(len(users))
    gains = 1 / np.log2(np.arange(2, k + 2))
    for row, (items, wanted) in enumerate(zip(users, targets, strict=True)):
        ranked = scores[row].copy()
        ranked[np.setdiff1d(items, wanted)] = -np.inf
        best = np.argsort(-ranked, kind="stable")[:k]  # of equal scores the lower number first
        hits = np.isin(best, wanted)
        recall[row] = hits.sum() / len(np.unique(wanted))
        ndcg[row] = (hits * gains[: len(best)]).sum() / gains[: min(k, len(np.unique(wanted)))].sum()
    return recall, ndcg


def interval(values: np.ndarray) -> str:
    """Mean, and the interval of the mean with 95 % confidence, by resampling the users."""
    rng = np.random.default_rng(0)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.4f} ({low:.4f} to {high:.4f})"


def ingest(options: argparse.Namespace) -> None:
    """Make the stores: users for training and test, and item tokens to train on."""
    chosen = {
        "user_field": options.user_field,
        "item_field": options.item_field,
        "time_field": options.time_field,
        "min_user_interactions": options.min_interactions,
        "min_item_interactions": options.min_interactions,
        "split": "last",
        "max_history": 1 << 20,
    }
    for name, rows, part in (
        ("train", "users", "train"),
        ("test", "users", "test"),
        ("tokens", "tokens", "train"),
    ):
        interactions = hr.Interactions(rows=rows, part=part, **chosen)
        hr.ingest(options.log, options.out / name, interactions=interactions)


def train(options: argparse.Namespace) -> None:
    """Train a transformer on documents of items; the same call goes on after a kill."""
    shape = ShapeOptions(
        num_hidden_layers=options.layers,
        hidden_size=options.width,
        num_attention_heads=max(1, options.width // 32),
        max_position_embeddings=options.seq_len,
        tie_word_embeddings=True,
    )
    hr.train(
        options.out / "tokens",
        out=options.out / "run",
        model=shape,
        steps=options.steps,
        data=hr.DataOptions(seq_len=options.seq_len, batch_size=options.batch_size, separate_documents=True),
        optimizer=hr.OptimizerOptions(
            lr=options.lr, warmup_steps=min(100, options.steps // 10), weight_decay=0.1
        ),
    )


def predict(
    path: Path, scores: np.ndarray, users: list[np.ndarray], names: tuple[list[str], list[str]], k: int
) -> None:
    """Write the k best items that each user does not have, and their log-probabilities."""
    user_names, item_names = names
    best = []
    for row, items in enumerate(users):
        ranked = scores[row].copy()
        ranked[items] = -np.inf
        best.append(np.argsort(-ranked, kind="stable")[:k])
    table = {
        "user": user_names,
        "items": [[item_names[item] for item in row] for row in best],
        "logprobs": [scores[row, items].tolist() for row, items in enumerate(best)],
    }
    pq.write_table(pa.table(table), path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", nargs="+", required=True, help="files of CSV, JSON lines or Parquet")
    parser.add_argument("--out", type=Path, default=Path("recommend"))
    for name in ("user", "item", "time"):
        parser.add_argument(f"--{name}-field", help="where the column has no usual name")
    parser.add_argument("--min-interactions", type=int, default=5, help="of a user and of an item")
    parser.add_argument("--seq-len", type=int, default=64, help="items that the model reads")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("-k", type=int, default=10)
    options = parser.parse_args()

    ingest(options)
    train(options)
    known, _, _ = histories(options.out / "train")
    users, targets, numbers = histories(options.out / "test")
    files = hr.SampleStore.open(options.out / "test").blob
    items, names = read_keys(files.get(ITEMS_FILE)), read_keys(files.get(USERS_FILE))
    k = min(options.k, len(items))
    print(f"{len(users):,} users, {len(items):,} items; recall@{k} and NDCG@{k}, with 95 % confidence")
    for name, scores in (
        ("most popular", popularity(known, users, len(items))),
        ("item-kNN", item_knn(known, users, len(items))),
        ("transformer", sequential(options.out / "run", users, len(items), options.seq_len - 1)),
    ):
        recall, ndcg = ranking_scores(scores, users, targets, k)
        print(f"{name:13} {interval(recall)}   {interval(ndcg)}")
    path = options.out / "predictions.parquet"
    predict(path, scores, users, ([names[number] for number in numbers], items), k)
    print(f"the {k} items of each user that the transformer finds likeliest: {path}")


if __name__ == "__main__":
    main()
