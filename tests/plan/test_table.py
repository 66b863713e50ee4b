"""Tables of measured runs: what is read, what is refused by reason."""

import numpy as np
import pytest
from conftest_plan import ROW, write

from headrace.errors import SourceError
from headrace.plan.table import REQUIRED, read_table, system_of


def test_step_seconds_come_from_tokens_then_tflops_then_mfu(tmp_path):
    rows = [
        ROW,
        {**ROW, "tokens_per_s_per_gpu": "", "tflops_per_gpu": 100},
        {**ROW, "tokens_per_s_per_gpu": "", "mfu_pct": 40},
    ]
    table = read_table(write(tmp_path / "t.csv", rows))
    tokens = 64 * 1024
    flops = table.points.flops_per_token[0] * tokens / 8
    assert table.step_s == pytest.approx([tokens / (5000 * 8), flops / 100e12, flops / (0.4 * 312e12)])


def test_a_row_without_a_speed_is_kept_without_a_time(tmp_path):
    table = read_table(write(tmp_path / "t.csv", [{**ROW, "tokens_per_s_per_gpu": ""}]))
    assert np.isnan(table.step_s[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu": "abacus-1gb"}, "abacus"),
        ({"dp": 3}, "is not n_gpus"),
        ({"hidden": ""}, "hidden is empty"),
        ({"layers": "many"}, "layers is 'many'"),
        ({"precision": "int3"}, "precision"),
        ({"model": "Mixtral-8x7B"}, "mixture of experts"),
        ({"model": "Qwen3-30B-A3B"}, "mixture of experts"),
        ({"model": "DeepSeek-V3"}, "mixture of experts"),
        ({"params_b": 40}, "params_b"),
        ({"seq": "nan"}, "seq"),
        ({"micro_batch": 0.5}, "micro_batch"),
        ({"tokens_per_s_per_gpu": -3}, "tokens_per_s_per_gpu is -3"),
        ({"tokens_per_s_per_gpu": "fast"}, "tokens_per_s_per_gpu is 'fast'"),
        ({"mem_gib": "inf"}, "mem_gib is inf"),
    ],
)
def test_a_row_that_cannot_be_read_is_listed_with_its_reason(tmp_path, change, reason):
    table = read_table(write(tmp_path / "t.csv", [ROW, {**ROW, **change}, ROW]))
    assert table.rows == (0, 2)
    assert reason in table.unread[1]


def test_a_table_that_is_none_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match="no column source"):
        read_table(path)
    with pytest.raises(SourceError, match="none"):
        read_table(tmp_path / "none.csv")
    for text, message in (
        ("", "got nothing"),
        (",".join(REQUIRED), "a header and no rows"),
        (";".join(REQUIRED), "Separate the columns by commas"),
        (",".join((*REQUIRED, "gpu")), "column gpu is there twice"),
        (",".join(REQUIRED) + "\nx,A100,8,24,2048,16,1024,64,8,1,1,5000", "more cells than the header's 11"),
        (",".join(REQUIRED[1:]) + ",source\nA100,8", "hidden is empty"),
    ):
        path.write_text(text)
        with pytest.raises(SourceError, match=message):
            read_table(path)
    with pytest.raises(SourceError, match="none of 1 rows"):
        read_table(write(path, [{**ROW, "gpu": "x"}]))


def test_a_table_without_the_optional_columns_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "source,gpu,n_gpus,layers,hidden,heads,seq,global_batch_seqs,dp,tp,pp\nx,A100,8,24,2048,16,1024,64,8,1,1\n"
    )
    table = read_table(path)
    assert table.points.vocab_size[0] == 51200
    assert table.points.ffn_size[0] == 4 * 2048


def test_files_and_commits_of_one_source_are_one_system():
    assert system_of("NVIDIA/NeMo docs/a.md@123", "H100") == system_of("NVIDIA/NeMo docs/b.md@456", "H100")
    assert system_of("NVIDIA/NeMo docs/a.md", "H100") != system_of("NVIDIA/NeMo docs/a.md", "A100")


@pytest.mark.parametrize(
    ("stated", "ffn", "tied"),
    [
        ({"ffn": 4, "params_b": 8.86}, 14336, False),  # Llama 3 8B with as many key/value heads as heads
        ({"ffn": 4, "params_b": 9.13}, 16384, True),
        ({"ffn": 14336, "params_b": 8.86}, 14336, False),
        ({"ffn": 14336, "params_b": 8.32}, 14336, True),
        ({"ffn": 4}, 16384, True),
    ],
)
def test_a_width_in_multiples_and_the_head_are_what_the_stated_parameters_make_them(
    tmp_path, stated, ffn, tied
):
    """Tables round the feed-forward width to "4 h" and do not say whether the head is the token table."""
    path = tmp_path / "t.csv"
    header = "source,gpu,n_gpus,layers,hidden,heads,seq,global_batch_seqs,dp,tp,pp,gated,vocab,ffn,params_b"
    row = f"x,A100,8,32,4096,32,4096,64,8,1,1,1,131072,{stated['ffn']},{stated.get('params_b', '')}"
    path.write_text(f"{header}\n{row}\n")
    points = read_table(path).points
    assert (points.ffn_size[0], bool(points.tied[0])) == (ffn, tied)


def test_memory_of_a_source_that_reports_rank_0_means_the_first_stage(tmp_path):
    table = read_table(write(tmp_path / "t.csv", [ROW, {**ROW, "source": "Nanotron docs/x.svg"}]))
    assert table.points.first_stage.tolist() == [0, 1]
