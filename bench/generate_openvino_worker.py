"""A contestant of generate_openvino.py: {"rows": n, "new": k} -> tokens, seconds, CPU seconds; a line each.

python generate_openvino_worker.py ours|openvino MODEL THREADS
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def ours(model: str, threads: int) -> Callable[[list[list[int]], int], int]:
    from headrace.platform import limit_openmp_spinning

    limit_openmp_spinning()  # as the command line does, before torch is loaded
    import torch

    import headrace as hr
    from headrace.generation.loading import load_engine
    from headrace.generation.request import Request

    torch.set_num_threads(threads)
    engine = load_engine(model, dtype="bfloat16", device="cpu", batch_size=64).engine
    engine._eos = frozenset()  # noqa: SLF001  # each row makes all its tokens

    def run(prompts: list[list[int]], new: int) -> int:
        sampling = hr.SamplingOptions(max_new_tokens=new)
        rows = engine.run(
            Request(prompt_id=str(i), token_ids=tuple(ids), sampling=sampling)
            for i, ids in enumerate(prompts)
        )
        return sum(len(row.token_ids) for row in rows)

    return run


def openvino(model: str, threads: int) -> Callable[[list[list[int]], int], int]:
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens, scheduler.max_num_seqs, scheduler.cache_size = 2048, 64, 1
    scheduler.enable_prefix_caching = False
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "bf16"}
    pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", settings)

    def run(prompts: list[list[int]], new: int) -> int:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new, True, False
        tensors = [ov.Tensor(np.array([ids], dtype=np.int64)) for ids in prompts]
        results = pipeline.generate(tensors, [config] * len(prompts))
        return sum(len(result.m_generation_ids[0]) for result in results)

    return run


def main() -> None:
    way, model, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    run = {"ours": ours, "openvino": openvino}[way](model, threads)
    rng = random.Random(7)
    for line in sys.stdin:
        job = json.loads(line)
        prompts = [[rng.randrange(1000, 40_000) for _ in range(16)] for _ in range(job["rows"])]
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = run(prompts, job["new"])
        answer = {"tokens": tokens, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
