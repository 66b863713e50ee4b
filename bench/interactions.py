"""Batches of a recommender with each distinct history once, beside row-wise collation.

Claim     Batches of 4,096 interactions whose users repeat by a power law are made >= 10 x as fast as by row-wise
          collation, and the bytes of histories for the device are those without, divided by how often one repeats.
Run       python bench/interactions.py
Compares  The same interactions, histories of up to 200 items and their times, batches of 4,096 in a global shuffle, one
          core. Ours: hr.Loader with deduplicate=True. DataLoader: rows in memory as NumPy arrays (a history an array),
          collated row by row into values and offsets. HF datasets: an Arrow table in memory, format "torch", in a
          DataLoader with the same collate function.
Ceiling   Ours without deduplication, which writes every history as often as it comes.
Reports   Rows a second of CPU time; median and spread of n rounds in turn. Bytes of history values and offsets.
Cause     {cause}
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader

import headrace as hr
from measure import DATA, at_least, interleave, number, options, pin, report, spread, summary, table

CAUSE = """Ours takes 2.3 us a row, row-wise collation 27: it makes two tensors and three integers for each row.
          Bytes fall by more than the mean repetition, since the users who come often have the longest histories.
          With a load of 6 instead of 11 it was 11.9 x DataLoader and 49 x HF datasets."""
BATCH = 4096


def store_of(users: int, events: int) -> hr.SampleStore:
    """A log of interactions in sessions, users by a power law, and its store; made once."""
    place = DATA / f"interactions-{users}-{events}"
    if not (place / "done").exists():
        place.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        shares = 1 / np.arange(1, users + 1) ** 1.1
        user = np.sort(random.choice(users, events, p=shares / shares.sum()))
        session = np.arange(events) // 16  # sixteen impressions, then a pause
        lines = ["user,item,time"]
        lines += [
            f"{u},{i},{1000 * s + n % 16}"
            for n, (u, i, s) in enumerate(zip(user, random.integers(0, 50_000, events), session, strict=True))
        ]
        (place / "log.csv").write_text("\n".join(lines))
        hr.ingest(
            place / "log.csv", place / "store", interactions=hr.Interactions(session_gap=100), restart=True
        )
        (place / "done").touch()
    return hr.SampleStore.open(place / "store")


NUMBERS, HISTORIES = ("user", "item", "time"), ("history", "history_times")


def rows_of(store: hr.SampleStore) -> list[dict[str, Any]]:
    """All rows in memory, as a data set of Python has them."""
    found = store.gather(np.arange(store.num_rows), [*NUMBERS, *HISTORIES])
    return [{name: column[i] for name, column in found.items()} for i in range(store.num_rows)]


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Row by row into values and offsets, as a jagged feature is made of lists."""
    batch: dict[str, Any] = {name: torch.as_tensor([int(row[name]) for row in rows]) for name in NUMBERS}
    for name in HISTORIES:
        parts = [torch.as_tensor(row[name]) for row in rows]
        offsets = torch.tensor([0, *map(len, parts)]).cumsum(0)
        batch[name] = (torch.cat(parts), offsets)
    return batch


def per_second(batches: Callable[[], Iterable[Any]], sizes: list[int], rows: int) -> float:
    """Rows a second of CPU time; the bytes of histories of an epoch are noted in `sizes`."""
    start, nbytes, count = time.process_time(), 0, 0
    for batch in batches():
        count += len(batch["user"])
        nbytes += sum(part.nbytes for name in HISTORIES for part in batch[name])
        if "history_inverse" in batch:
            nbytes += batch["history_inverse"].nbytes
        if count >= rows:
            break
    sizes[:] = [nbytes, count]
    return count / (time.process_time() - start)


def ours(store: hr.SampleStore, *, once: bool) -> Iterable[Any]:
    """Batches of headrace."""
    chosen = hr.InteractionOptions(deduplicate=once)
    columns = (*NUMBERS, *HISTORIES)
    return hr.Loader(
        store, batch_size=BATCH, seed=1, epochs=1, rank=0, world_size=1, columns=columns, interactions=chosen
    )


def main() -> None:
    chosen = options(__doc__ or "", repeats=5).parse_args()
    pin()
    torch.set_num_threads(1)
    store = store_of(2_000, 20_000 if chosen.quick else 131_072)
    rows = rows_of(store)
    arrow = datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in rows[0]}).with_format(
        "torch"
    )
    sizes: dict[str, list[int]] = {}

    def contender(name: str, batches: Callable[[], Iterable[Any]], count: int) -> Callable[[], float]:
        sizes[name] = []
        return lambda: per_second(batches, sizes[name], count)

    def loader(data: Any) -> Iterable[Any]:
        return DataLoader(data, batch_size=BATCH, shuffle=True, collate_fn=collate)

    found = interleave(
        {
            "headrace": contender("headrace", lambda: ours(store, once=True), len(rows)),
            "headrace, all histories": contender("all", lambda: ours(store, once=False), len(rows)),
            "DataLoader, row-wise": contender("DataLoader", lambda: loader(rows), len(rows)),
            "HF datasets": contender("HF", lambda: loader(arrow), 2 * BATCH),
        },
        1 if chosen.quick else chosen.repeats,
    )
    middle = {name: summary(values)["median"] for name, values in found.items()}
    per_row = {name: nbytes / count for name, (nbytes, count) in sizes.items()}
    index = np.concatenate([np.diff(batch["history"][1].numpy()) for batch in ours(store, once=True)])
    repeats = len(rows) / len(index)
    report(
        __file__,
        doc=(__doc__ or "").replace("{cause}", CAUSE),
        tables={
            f"{len(rows):,} interactions, a history {repeats:.2f} times in a batch": table(
                ["", "rows/s", "spread", "history bytes a row"],
                [
                    [name, number(middle[name]), spread(values), number(size)]
                    for (name, values), size in zip(found.items(), per_row.values(), strict=True)
                ],
            )
        },
        goals=[
            at_least(
                "against row-wise DataLoader", middle["headrace"] / middle["DataLoader, row-wise"], 10, "x"
            ),
            at_least("against HF datasets", middle["headrace"] / middle["HF datasets"], 10, "x"),
            at_least(
                "bytes of histories: without, over with (goal: how often one repeats)",
                per_row["all"] / per_row["headrace"],
                repeats,
                "x",
                "the inverse index and offsets of 8 bytes included",
            ),
        ],
        data={"rows_per_cpu_s": found, "history_bytes_per_row": per_row, "repeats": repeats},
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
