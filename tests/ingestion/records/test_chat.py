"""Chat templates: as transformers renders them, and the same masks; sandboxed; the same bytes on every day."""

from __future__ import annotations

import json
import random

import pytest

from headrace.errors import ConfigError
from headrace.ingestion import FieldOptions
from headrace.ingestion.options import ChatOptions
from headrace.ingestion.records import Fault, RecordRenderer, chat_options
from headrace.tokens import PartEncoder, load_tokenizer

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
TEMPLATES = {
    "chatml": (
        "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}\n"
        "{%- if message.role == 'assistant' %}{% generation %}{{- message.content + '<|im_end|>' }}"
        "{% endgeneration %}{%- else %}{{- message.content + '<|im_end|>' }}{%- endif %}{{- '\\n' }}{%- endfor %}"
    ),
    "headers": (
        "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}"
        "{% endgeneration %}{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    ),
    "plain": (
        "{% for message in messages %}{% if message.role == 'assistant' %}ASSISTANT:{% generation %}"
        "{{ ' ' + message.content + eos_token }}{% endgeneration %}{% else %}{{ message.role | upper }}: "
        "{{ message.content }}\n{% endif %}{% endfor %}"
    ),
}


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    """A byte-level BPE with special tokens, trained on a little text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    texts = ["what is it that you want me to do and why would I", "a\n\n", "b:\n\n  c\n"]
    tokenizer.train_from_iterator(texts * 20, trainer)
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(path / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "bos_token": "<|im_start|>",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def conversations(count):
    rng = random.Random(1)
    alphabet = ["what", " is", "\n", "é", "…", "  ", "x1", "?", " do", "日本", "it"]

    def text():
        return "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 30)))

    for _ in range(count):
        turns = [{"role": "system", "content": text()}] if rng.random() < 0.3 else []
        for _ in range(rng.randrange(1, 4)):
            turns += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
        yield turns


def encoded(tokenizer, renderer, record):
    """Ids and learned flags of one record, its end of document included."""
    text, marks = renderer.render(record)
    parts = PartEncoder(tokenizer).encode([text], [marks])
    ids = [*parts.ids.tolist(), tokenizer.eos_id]
    return ids, [*parts.learned.astype(int).tolist(), int(parts.learned_ends[0])]


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_and_masks_are_those_of_transformers(tokenizer_dir, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    file = tmp_path / "template.jinja"
    file.write_text(TEMPLATES[name])
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tokenizer_dir)
    ours = load_tokenizer(tokenizer_dir)
    fields = FieldOptions(template=str(file))
    renderer = RecordRenderer(FieldOptions(template=str(file), chat=chat_options(fields, ours)))
    for turns in conversations(60):
        expected = theirs.apply_chat_template(
            turns,
            chat_template=TEMPLATES[name],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, mask = encoded(ours, renderer, {"messages": turns})
        if expected["input_ids"][-1] != ours.eos_id:  # the document's end is no token of the template
            assert mask[-1] == 0
            ids, mask = ids[:-1], mask[:-1]
        assert ids == list(expected["input_ids"])
        assert mask == list(expected["assistant_masks"])


def test_a_tokenizer_that_is_not_byte_level_gives_the_ids_of_the_whole_text():
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    pieces = [
        ("<unk>", 0.0),
        ("</s>", 0.0),
        ("▁", -2.0),
        ("▁hi", -1.0),
        ("hi", -1.5),
        ("▁yo", -1.0),
        ("u", -3.0),
    ]
    pieces += [(char, -5.0) for char in "abhioty:\n"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    from headrace.tokens.huggingface import HFTokenizer

    config = {"eos_token": "</s>"}
    ours = HFTokenizer(
        name="unigram",
        definition=tokenizer.to_str().encode(),
        side_files={"tokenizer_config.json": json.dumps(config).encode()},
    )
    assert not ours.encodes_pieces_alike
    turn = "{{ m.role[0] }}: {% generation %}{{ m.content }}</s>{% endgeneration %}"
    template = "{% for m in messages %}" + turn + "{% endfor %}"
    fields = FieldOptions(chat=ChatOptions(template=template, special_tokens=("</s>",)))
    turns = [{"role": "assistant", "content": "hi you"}, {"role": "assistant", "content": "you"}]
    text, marks = RecordRenderer(fields).render({"messages": turns})
    got = PartEncoder(ours).encode([text], [marks])
    expected = tokenizer.encode(text.decode(), add_special_tokens=False)
    ids = got.ids.tolist()
    assert ids == list(expected.ids[: len(ids)])
    shown = [token for token, is_learned in zip(expected.tokens, got.learned, strict=False) if is_learned]
    assert "a" not in shown
    assert "</s>" in shown


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(attack):
    fields = FieldOptions(chat=ChatOptions(template=attack))
    got = RecordRenderer(fields).render({"messages": [{"role": "assistant", "content": "a"}]})
    assert isinstance(got, Fault)
    assert got.reason == "bad_conversation"


@pytest.mark.parametrize(
    "template", ["{{ strftime_now('%Y') }}", "{{ messages | random }}", "{{ lipsum() }}"]
)
def test_a_template_has_nothing_that_differs_from_day_to_day(template, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text(template)
    try:
        chat = chat_options(FieldOptions(template=str(file)), load_tokenizer("byte"))
    except ConfigError as error:
        assert "random" in str(error)  # noqa: PT017
        return
    got = RecordRenderer(FieldOptions(chat=chat)).render(
        {"messages": [{"role": "assistant", "content": "a"}]}
    )
    assert "undefined" in got.detail


def test_a_template_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "t.jinja").write_text("{% for %}")
    byte = load_tokenizer("byte")
    with pytest.raises(ConfigError, match="line 1"):
        chat_options(FieldOptions(template=str(tmp_path / "t.jinja")), byte)
    with pytest.raises(ConfigError, match="cannot be read"):
        chat_options(FieldOptions(template=str(tmp_path / "none.jinja")), byte)
    with pytest.raises(ConfigError, match="has no chat template"):
        chat_options(FieldOptions(template="chat"), byte)
