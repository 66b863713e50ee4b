"""A job's speed and size -> the bytes around it: reading, checkpoints, ingest, output; each with its formula."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any

from typing_extensions import Doc

from headrace.errors import ConfigError

STATE_BYTES = 12
"""Of a checkpoint per weight: float32 weight and AdamW's two float32 moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """Storage and data."""

    storage_gb_s: Annotated[
        float, Doc("Bandwidth of the checkpoints' storage, all writers together, GB/s.")
    ] = 2.0
    network_gb_s: Annotated[float, Doc("Bandwidth at which a node reads its data, GB/s.")] = 1.0
    mtbf_hours: Annotated[float, Doc("Mean time between failures of the whole job, hours.")] = 24.0
    cores_per_node: Annotated[int, Doc("Cores of a node that may load data.")] = 8
    bytes_per_token: Annotated[
        float, Doc("Stored bytes of a token; zstd of GPT-2's ids takes about 0.85.")
    ] = 0.85
    text_bytes_per_token: Annotated[float, Doc("Bytes of text of a token.")] = 4.2
    token_bytes: Annotated[int, Doc("Bytes of a decoded id: 2 up to 65,536 ids, else 4.")] = 2
    decode_mtokens_s: Annotated[float, Doc("Million tokens/s that one core decodes and gathers.")] = 430.0
    new_tokens: Annotated[int, Doc("Tokens generated for a prompt.")] = 256
    ingest_mb_s: Annotated[float, Doc("MB/s of text that one core ingests.")] = 88.0
    ingest_cores: Annotated[int, Doc("Cores that ingest.")] = 16

    def __post_init__(self) -> None:
        """Refuse what is not above 0.

        Raises:
            ConfigError: says which.
        """
        for name in self.__slots__:
            value = getattr(self, name)
            if not value > 0 or not math.isfinite(value):
                raise ConfigError(f"plan: {name} is {value!r}; expected a number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of the input and output side, with its formula."""

    name: str
    value: float
    unit: str
    formula: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFigures:
    """What was measured on a store."""

    codec: str
    num_tokens: int
    bytes_per_token: float
    """Stored bytes."""
    token_bytes: int
    decode_tokens_s: float
    """Of one core."""
    block_tokens: int


def input_output(
    options: StorageOptions,
    *,
    parameters: float,
    tokens_per_s: float,
    nodes: int,
    step_s: float,
    tokens: float,
    memory_bytes_s: float,
    seq_len: int = 2048,
    batch: int = 32,
    store: StoreFigures | None = None,
) -> list[Figure]:
    """What a job reads, writes and prepares.

    Args:
        options: bandwidths and sizes.
        parameters: of the model.
        tokens_per_s: of the whole job.
        nodes: machines.
        step_s: seconds of a step.
        tokens: to train on.
        memory_bytes_s: bandwidth of a device's memory, for generation.
        seq_len: tokens of a row.
        batch: rows decoded at once, for generation.
        store: the job's own, where its figures are in `options` (`with_store`).
    """
    o = options
    epoch = tokens if store is None else min(tokens, store.num_tokens)
    node_tokens = tokens_per_s / nodes
    read = node_tokens * o.bytes_per_token
    cores = node_tokens / (o.decode_mtokens_s * 1e6)
    text = tokens * o.text_bytes_per_token
    decode = min(memory_bytes_s / (2 * parameters) * batch, 1e9)
    return [
        Figure(name="tokens each node reads", value=node_tokens, unit="tokens/s", formula="tokens/s / nodes"),
        Figure(
            name="bytes each node reads", value=read / 1e6, unit="MB/s", formula="node tokens/s x stored bytes a token",
        ),
        Figure(
            name="share of the network", value=100 * read / (o.network_gb_s * 1e9), unit="%",
            formula="bytes/s / network bandwidth",
        ),
        Figure(
            name="cores that decode", value=cores, unit=f"of {o.cores_per_node}",
            formula="node tokens/s / tokens/s a core decodes",
        ),
        *_codec_figures(o, node_tokens=node_tokens, seq_len=seq_len, store=store),
        Figure(
            name="first epoch of a node", value=epoch * o.bytes_per_token / nodes / 1e9, unit="GB",
            formula="store / nodes, where the tokens are one epoch; later epochs come from a cache that holds them",
        ),
        Figure(
            name="store", value=(tokens if store is None else store.num_tokens) * o.bytes_per_token / 1e9, unit="GB",
            formula="tokens x stored bytes a token: the first epoch's reads, and a cache that holds all",
        ),
        *([] if store is None else [
            Figure(name="epochs", value=tokens / store.num_tokens, unit=f"of {store.num_tokens:,} tokens",
                   formula="tokens to train on / tokens of the store"),
        ]),
        Figure(
            name="ingest", value=text / (o.ingest_mb_s * 1e6 * o.ingest_cores) / 3600, unit="hours",
            formula="tokens x text bytes a token / (MB/s a core x cores)",
        ),
        *_checkpoint_figures(o, parameters=parameters, nodes=nodes, step_s=step_s),
        Figure(
            name="generation", value=decode, unit="tokens/s a GPU",
            formula="memory bandwidth / bytes of bfloat16 weights x rows at once: an upper bound",
        ),
        Figure(
            name="generation: prompts", value=decode / o.new_tokens, unit="prompts/s a GPU",
            formula=f"tokens/s / {o.new_tokens} new tokens a prompt",
        ),
        Figure(
            name="generation: output", value=decode * o.text_bytes_per_token / 1e6, unit="MB/s a GPU",
            formula="tokens/s x text bytes a token",
        ),
    ]  # fmt: skip


# Decoded million tokens/s of one core and stored bytes of a decoded byte, block shuffle: bench/results/load_codecs.md.
_CODECS = {"none": (4740.0, 1.0), "lz4": (908.0, 0.51), "zstd": (430.0, 0.425)}
_BLOCK_TOKENS = 65_536


def _codec_figures(
    o: StorageOptions, *, node_tokens: float, seq_len: int, store: StoreFigures | None
) -> list[Figure]:
    """Cores and network that each codec takes, and what a global shuffle from an object store would read."""
    known = {name: (rate, share * o.token_bytes) for name, (rate, share) in _CODECS.items()}
    own = "zstd" if store is None else f"{store.codec} (the store, measured)"
    known.pop("zstd" if store is None else store.codec, None)
    block = _BLOCK_TOKENS if store is None else store.block_tokens
    figures = []
    for codec, (rate, stored) in {**known, own: (o.decode_mtokens_s, o.bytes_per_token)}.items():
        cores = node_tokens / (rate * 1e6)
        network = 100 * node_tokens * stored / (o.network_gb_s * 1e9)
        keeps = "keeps up" if cores <= o.cores_per_node and network <= 100 else "does not keep up"
        figures.append(
            Figure(
                name=f"{codec}, block shuffle", value=network, unit=f"% of the network, {cores:.2g} cores: {keeps}",
                formula=f"node tokens/s x {stored:.2g} bytes / network; node tokens/s / {rate:.0f} M tokens/s a core",
            )
        )  # fmt: skip
    fetched = node_tokens / seq_len * block * o.bytes_per_token
    share = 100 * fetched / (o.network_gb_s * 1e9)
    figures.append(
        Figure(
            name=f"{own}, global shuffle", value=share,
            unit=f"% of the network: {'keeps up' if share <= 100 else 'does not keep up'}",
            formula=f"node rows/s x a block of {block:,} tokens for each row, without a cache",
        )
    )  # fmt: skip
    return figures


def with_measured(options: StorageOptions, *, decode_tokens_s: float, cores: int) -> StorageOptions:
    """With what a probe measured, where the options still have their defaults; 0: not measured."""
    default = StorageOptions()
    changed: dict[str, Any] = {}
    if decode_tokens_s and options.decode_mtokens_s == default.decode_mtokens_s:
        changed["decode_mtokens_s"] = decode_tokens_s / 1e6
    if cores and options.cores_per_node == default.cores_per_node:
        changed["cores_per_node"] = cores
    return dataclasses.replace(options, **changed)


def with_store(options: StorageOptions, store: StoreFigures) -> StorageOptions:
    """With what a store measured, where the options still have their defaults."""
    default = StorageOptions()
    measured = {
        "bytes_per_token": store.bytes_per_token,
        "token_bytes": store.token_bytes,
        "decode_mtokens_s": store.decode_tokens_s / 1e6,
    }
    changed: dict[str, Any] = {
        name: value for name, value in measured.items() if getattr(options, name) == getattr(default, name)
    }
    return dataclasses.replace(options, **changed)


def _checkpoint_figures(o: StorageOptions, *, parameters: float, nodes: int, step_s: float) -> list[Figure]:
    checkpoint = STATE_BYTES * parameters
    write_s = checkpoint / (o.storage_gb_s * 1e9)
    mtbf_s = o.mtbf_hours * 3600
    interval = daly_interval(write_s, mtbf_s)
    return [
        Figure(name="checkpoint", value=checkpoint / 1e9, unit="GB", formula=f"{STATE_BYTES} bytes a weight"),
        Figure(
            name="checkpoint: write", value=write_s, unit="s", formula="bytes / storage bandwidth, in the background",
        ),
        Figure(
            name="checkpoint: stall", value=min(write_s, checkpoint / nodes / 5e9), unit="s",
            formula="bytes a node / 5 GB/s of copying to host memory",
        ),
        Figure(
            name="checkpoint: interval", value=interval, unit="s",
            formula="Daly 2006: sqrt(2 write mtbf) (1 + sqrt(write / 2 mtbf) / 3 + write / 18 mtbf) - write",
        ),
        Figure(
            name="checkpoint: interval by Young", value=young_interval(write_s, mtbf_s), unit="s",
            formula="Young 1974: sqrt(2 write mtbf)",
        ),
        Figure(
            name="checkpoint: interval in steps", value=max(1, round(interval / step_s)), unit="steps",
            formula="interval / seconds of a step",
        ),
        Figure(
            name="checkpoint: cost", value=100 * lost_share(interval, write_s, mtbf_s), unit="% of the time",
            formula="write / interval + (interval + write) / 2 mtbf",
        ),
    ]  # fmt: skip


def young_interval(write_s: float, mtbf_s: float) -> float:
    """Seconds between checkpoints that lose least, to first order. Source: Young 1974.

    >>> round(young_interval(10, 24 * 3600))
    1315
    """
    return math.sqrt(2 * write_s * mtbf_s)


def daly_interval(write_s: float, mtbf_s: float) -> float:
    """Seconds of computing between checkpoints that lose least. Source: Daly 2006, equation 37.

    >>> round(daly_interval(10, 24 * 3600))
    1308
    >>> daly_interval(100, 40)
    40
    """
    if write_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = write_s / (2 * mtbf_s)
    return math.sqrt(2 * write_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - write_s


def lost_share(interval_s: float, write_s: float, mtbf_s: float) -> float:
    """Share of the time that goes to writing checkpoints and to work that failures destroy, to first order."""
    return write_s / (interval_s + write_s) + (interval_s + write_s) / (2 * mtbf_s)
