"""A model directory -> an engine that is ready, its tokenizer, and the fingerprints of both."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headrace.errors import ConfigError
from headrace.generation.decoding.gpt_runner import GPTRunner
from headrace.generation.decoding.hf_runner import HFRunner
from headrace.generation.engines.encoder_decoder import UNSUPPORTED as NOT_SUPPORTED
from headrace.generation.engines.encoder_decoder import EncoderDecoderEngine
from headrace.generation.engines.native import NativeEngine
from headrace.generation.engines.results import check_supported
from headrace.generation.job import BatchEngine, Progress
from headrace.generation.model_directory import base_directory, read_config, special_ids_of
from headrace.generation.options import PrefixCacheOptions, SamplingOptions
from headrace.generation.prefix_cache import BlockDirectory, PrefixCache
from headrace.generation.prompts.tokenizer import PromptTokenizer
from headrace.model import Decoder, Model, fetch_model, is_adapter, limit_threads, load_model
from headrace.paths import split_checkpoint_name
from headrace.stats import Stats

if TYPE_CHECKING:
    from headrace.generation.engines.transformers_engine import TransformersEngine
    from headrace.generation.engines.vllm_engine import VLLMEngine
    from headrace.tokens import Tokenizer

ENGINES = ("native", "transformers", "vllm")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """An engine that is ready, and the model's tokenizer and fingerprints."""

    engine: BatchEngine
    prompt_tokenizer: PromptTokenizer
    fingerprint: str
    """32 hex digits of the weights."""
    tokenizer_fingerprint: str
    dtype: str
    unsupported: Mapping[str, str]
    """Sampling options that the engine does not support, each with a cure."""

    def check_supported(self, sampling: SamplingOptions) -> None:
        """Refuse an option that the engine would ignore.

        Raises:
            ConfigError: naming the option.
        """
        check_supported(sampling, self.unsupported)


def load_engine(
    model: str | os.PathLike[str],
    *,
    engine: str = "native",
    dtype: str = "auto",
    device: str = "auto",
    batch_size: int = 32,
    prefix_cache: PrefixCacheOptions = PrefixCacheOptions(),  # noqa: B008  # frozen
    stats: Stats | None = None,
    progress: Progress | None = None,
) -> LoadedEngine:
    """Load a model for generation.

    Args:
        model: a run (RUN, RUN@STEP, RUN@best), a Hugging Face directory or peft's adapter directory, or a URL of one,
            see `fetch_model`.
        engine: of ENGINES.
        dtype: of the weights; "auto": as stored, on a CPU float32.
        device: "cpu", "cuda" or "auto".
        batch_size: rows that are generated at once.
        prefix_cache: what is kept of prompts that have been computed; of engine native.
        stats: counts the engine's time.
        progress: called as progress(bytes done, bytes in all, note) while weights are read.

    Raises:
        ConfigError: no such engine, dtype or device.
    """
    if engine not in ENGINES:
        raise ConfigError(f"generate: no engine named {engine!r}; there are {', '.join(ENGINES)}.")
    place = pick_device(device)
    path = fetch_model(model, progress=progress)
    limit_threads()
    about = _encoder_decoder_config(path)
    if about is not None:
        if engine != "native":
            raise ConfigError(
                f"{path}: engine {engine} generates with decoders, and this model has an encoder too. Use engine "
                "native."
            )
        if prefix_cache.directory is not None:
            raise ConfigError(
                f"{path}: prefix_cache is for decoders; an encoder reads each prompt as a whole, so that two prompts "
                "have no prefix in common. Leave prefix_cache out."
            )
        return _load_encoder_decoder(
            path, about, dtype=dtype, device=place, batch_size=batch_size, stats=stats
        )
    if engine != "native":
        if prefix_cache.directory is not None:
            raise ConfigError(
                f"generate: prefix_cache is for engine native; engine {engine} has a cache of its own, or none. "
                "Leave prefix_cache out, or use engine native."
            )
        return _load_foreign(path, engine=engine, dtype=dtype, device=place, batch_size=batch_size)
    runner, tokenizer = _load_runner(path, dtype=dtype, device=place, progress=progress)
    special_ids = special_ids_of(split_checkpoint_name(path)[0], tokenizer)
    return LoadedEngine(
        engine=NativeEngine(
            runner,
            tokenizer.token_bytes(),
            eos_ids=special_ids.eos,
            batch_size=batch_size,
            stats=stats,
            prefix_cache=open_prefix_cache(runner, prefix_cache),
        ),
        prompt_tokenizer=PromptTokenizer(tokenizer, special_ids),
        fingerprint=runner.fingerprint,
        tokenizer_fingerprint=tokenizer.fingerprint,
        dtype=str(runner.dtype).removeprefix("torch."),
        unsupported={},
    )


def _encoder_decoder_config(path: Path) -> dict[str, Any] | None:
    """The config of a model with an encoder and a decoder; None for other models."""
    directory, _ = split_checkpoint_name(path)
    about = None if is_adapter(directory) else read_config(directory)
    return about if about is not None and about.get("is_encoder_decoder") else None


def _load_encoder_decoder(
    path: Path,
    about: dict[str, Any],
    *,
    dtype: str,
    device: torch.device,
    batch_size: int,
    stats: Stats | None,
) -> LoadedEngine:
    if (path / "source.spm").is_file() and not (path / "tokenizer.json").is_file():
        raise ConfigError(
            f"{path}: its tokenizer is two SentencePiece models, source.spm and target.spm, which headrace does not "
            "read. Put a tokenizer.json of it there"
        )
    prompts = load_prompts(path)
    stored = DTYPES.get(str(about.get("dtype") or about.get("torch_dtype")), torch.float32)
    engine = EncoderDecoderEngine(
        path,
        model_type=str(about.get("model_type")),
        dtype=pick_dtype(dtype, stored=stored, device=device),
        device=device,
        tokenizer=prompts.tokenizer,
        eos_ids=prompts.special_ids.eos,
        batch_size=batch_size,
        stats=stats,
    )
    return LoadedEngine(
        engine=engine,
        prompt_tokenizer=prompts,
        fingerprint=engine.fingerprint,
        tokenizer_fingerprint=prompts.tokenizer.fingerprint,
        dtype=str(engine.dtype).removeprefix("torch."),
        unsupported=NOT_SUPPORTED,
    )


def open_prefix_cache(runner: GPTRunner | HFRunner, options: PrefixCacheOptions) -> PrefixCache | None:
    """The prefix cache of a model; None where no memory is given.

    Raises:
        ConfigError: the directory cannot be used, or a block of the model does not fit into a bound.
    """
    if not options.memory_bytes:
        return None
    shape = PrefixCache.shape_for(runner.new_cache(num_rows=1, capacity=1))
    directory = None
    if options.directory is not None:
        directory = BlockDirectory(
            options.directory,
            max_bytes=options.disk_bytes,
            model=runner.kv_fingerprint,
            dtype=runner.dtype,
            shape=shape,
            device=runner.device,
        )
    cache = PrefixCache(
        model=runner.kv_fingerprint,
        dtype=runner.dtype,
        shape=shape,
        memory_bytes=options.memory_bytes,
        keep_answers=options.keep_answers,
        directory=directory,
    )
    if not cache.max_blocks:
        raise ConfigError(
            f"prefix_cache_memory_bytes is {options.memory_bytes}; a block of this model has {cache.block_nbytes} "
            "bytes. Give more, or 0 for no prefix cache."
        )
    return cache


def _load_foreign(
    path: Path, *, engine: str, dtype: str, device: torch.device, batch_size: int
) -> LoadedEngine:
    """Load another library's engine; it reads Hugging Face directories only."""
    path, _ = split_checkpoint_name(path)
    about = None if is_adapter(path) else read_config(path)
    if about is None:
        raise ConfigError(
            f"{path}: engine {engine} reads Hugging Face directories (config.json), and this is a run "
            f"or an adapter. Use engine native, or headrace export."
        )
    prompts = load_prompts(path)
    table, eos_ids = prompts.tokenizer.token_bytes(), prompts.special_ids.eos
    stored = DTYPES.get(str(about.get("dtype") or about.get("torch_dtype")), torch.float32)
    kind = pick_dtype(dtype, stored=stored, device=device)
    made: TransformersEngine | VLLMEngine
    if engine == "transformers":
        from headrace.generation.engines.transformers_engine import UNSUPPORTED, TransformersEngine

        made = TransformersEngine(
            path, dtype=kind, device=device, table=table, eos_ids=eos_ids, batch_size=batch_size
        )
        fingerprint, unsupported = made.fingerprint, UNSUPPORTED
    else:
        from headrace.generation.decoding.fingerprint import fingerprint_of_files
        from headrace.generation.engines.vllm_engine import UNSUPPORTED, VLLMEngine

        made = VLLMEngine(path, dtype=dtype, table=table, eos_ids=eos_ids, batch_size=batch_size)
        fingerprint, unsupported = fingerprint_of_files(path), UNSUPPORTED
    return LoadedEngine(
        engine=made,
        prompt_tokenizer=prompts,
        fingerprint=fingerprint,
        tokenizer_fingerprint=prompts.tokenizer.fingerprint,
        dtype=str(made.dtype).removeprefix("torch."),
        unsupported=unsupported,
    )


def load_prompts(path: Path) -> PromptTokenizer:
    """The tokenizer of a model directory for prompts.

    Raises:
        ConfigError: neither a run nor a Hugging Face directory.
    """
    from headrace.tokens import load_tokenizer

    path, _ = split_checkpoint_name(path)
    if (path / "run.json").is_file():
        tokenizer = load_tokenizer(path / "tokenizer")
    elif (base := base_directory(path)) != path:
        return load_prompts(base)
    elif read_config(path) is None:
        raise _no_model(path)
    else:
        tokenizer = load_tokenizer(path)
    return PromptTokenizer(tokenizer, special_ids_of(path, tokenizer))


def _load_runner(
    path: Path, *, dtype: str, device: torch.device, progress: Progress | None
) -> tuple[GPTRunner | HFRunner, Tokenizer]:
    directory, _ = split_checkpoint_name(path)
    about = None if is_adapter(directory) else read_config(directory)
    if about is None and not is_adapter(directory) and not (directory / "run.json").is_file():
        raise _no_model(path)
    if about is None or about.get("model_type") == "gpt2":
        kind = pick_dtype(dtype, stored=torch.float32, device=device)
        model, tokenizer = load_model(path, device=device, dtype=kind, progress=progress)
        return runner_of_model(model, directory), tokenizer
    from headrace.tokens import load_tokenizer

    stored = DTYPES.get(str(about.get("dtype") or about.get("torch_dtype")), torch.float32)
    kind = pick_dtype(dtype, stored=stored, device=device)
    return HFRunner.of_directory(path, dtype=kind, device=device, progress=progress), load_tokenizer(path)


def runner_of_model(model: Model, directory: Path) -> GPTRunner | HFRunner:
    """What runs a model that is in memory; the directory is that of its run or adapter."""
    return HFRunner.of_decoder(model, directory) if isinstance(model, Decoder) else GPTRunner(model)


def _no_model(path: Path) -> ConfigError:
    return ConfigError(
        f"{path}: neither a run (run.json) nor a Hugging Face directory (config.json) is there. Give the --out of "
        f"headrace train, or a Hugging Face directory; a name of the hub is written hf://OWNER/NAME."
    )


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"generate: no device named {name!r}. Give cpu, cuda or auto.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"generate: device {name!r}, but torch sees no GPU here. Give cpu or auto.")
    return device


def pick_dtype(name: str, *, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The type of a name; "auto" is the stored one, on a CPU float32."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else stored
    if name not in DTYPES:
        raise ConfigError(f"generate: no dtype named {name!r}; there are auto, {', '.join(DTYPES)}.")
    return DTYPES[name]
