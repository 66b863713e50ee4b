"""Two tokenizers -> how their ids differ, or None where they give the same ids."""

from __future__ import annotations

from headrace.tokens import Tokenizer, first_mismatch, tricky_texts


def tokenizer_difference(model: Tokenizer, store: Tokenizer) -> str | None:
    """How the ids of a store's tokenizer differ from those that a model was trained with; None: they do not.

    One definition may come in two forms, such as tiktoken's gpt2 and its tokenizer.json: then fingerprints
    differ and ids are compared.
    """
    if model.fingerprint == store.fingerprint:
        return None
    if (model.vocab_size, model.eos_id) != (store.vocab_size, store.eos_id):
        return (
            f"{store.vocab_size} ids, end of document {store.eos_id}, and "
            f"{model.vocab_size} ids, end of document {model.eos_id}"
        )
    mismatch = first_mismatch(model, store, tricky_texts(model.added_tokens()))
    if mismatch is not None:
        return f"{mismatch.text[:40]!r} is {mismatch.expected} in the store and {mismatch.got} for the model"
    if model.token_bytes() != store.token_bytes():
        return "the same ids mean other bytes"
    return None
