"""The ids around a text, and of padding, of tokenizers with and without a post-processor."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models, processors

import headrace as hr
from headrace.tokens import ids_around, pad_id_of


@pytest.mark.parametrize(
    ("post_processor", "expected"),
    [
        (processors.RobertaProcessing(("</s>", 2), ("<s>", 0)), ((0,), (2,))),
        (processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)]), ((), (2,))),
        (None, ((), (2,))),
    ],
)
def test_ids_around_a_text_are_the_post_processors_else_the_end(tmp_path, post_processor, expected):
    made = Tokenizer(models.BPE({"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3}, []))
    made.add_special_tokens(["<s>", "<pad>", "</s>"])
    if post_processor is not None:
        made.post_processor = post_processor
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    tokenizer = hr.load_tokenizer(tmp_path)
    assert ids_around(tokenizer) == expected
    assert pad_id_of(tokenizer) == 1


def test_a_tokenizer_without_a_pad_token_pads_with_its_end():
    byte = hr.load_tokenizer("byte")
    assert (ids_around(byte), pad_id_of(byte)) == (((), (256,)), 256)
