"""A tokenizer's name or files -> ids and back: one small protocol over several engines.

    protocol    what every tokenizer does
    byte        an id is a byte
    encodings   gpt2, cl100k_base and tiktoken's other encodings from its files
    ranks_file  .tiktoken files, Llama's tokenizer.model, Mistral's tekken.json
    merges      ranks of tokens -> the fast engine, where it cannot read them itself
    vocab_merges  vocab.json and merges.txt
    huggingface tokenizer.json and Hugging Face directories
    pieces      SentencePiece .model files
    gigatoken   the fast engine, bounded in memory
    normalization  characters that engines compose by different Unicode tables
    flat        many texts in one buffer
    parts       texts with a given and a learned part -> ids and which are learned
    model_inputs  the ids that models expect around a text, and in padding
    probe       is the fast engine exact? text that tells engines apart
    load        a name, a path or a store's files -> a tokenizer
    train       text -> tokenizer.json

Special tokens in text are never recognised: a document that contains "<|endoftext|>" is encoded as those
characters, so that no text can forge a document's end. They are in the text that a chat template writes (`parts`).
"""

from headrace.tokens.bytelevel import char_of_byte
from headrace.tokens.flat import SEPARATOR, FlatTexts, lengths_of
from headrace.tokens.gigatoken import slim_results
from headrace.tokens.load import load_tokenizer, tokenizer_from_files
from headrace.tokens.model_inputs import ids_around, pad_id_of
from headrace.tokens.parts import EncodedParts, PartEncoder, PartMarks
from headrace.tokens.probe import Mismatch, first_mismatch, tricky_texts
from headrace.tokens.protocol import Ids, Offsets, Tokenizer, offsets_of
from headrace.tokens.train import train_tokenizer

__all__ = [
    "SEPARATOR",
    "EncodedParts",
    "FlatTexts",
    "Ids",
    "Mismatch",
    "Offsets",
    "PartEncoder",
    "PartMarks",
    "Tokenizer",
    "char_of_byte",
    "first_mismatch",
    "ids_around",
    "lengths_of",
    "load_tokenizer",
    "offsets_of",
    "pad_id_of",
    "slim_results",
    "tokenizer_from_files",
    "train_tokenizer",
    "tricky_texts",
]
