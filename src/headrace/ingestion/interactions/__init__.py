"""Logs of interactions (who, what, when) -> a store of samples or of item tokens.

options      `Interactions`: what users can set
log          CSV, JSON lines and Parquet files -> one table; bad rows as rejects
histories    the table -> each user's interactions in the order of time, frequency cut-offs, splits
moments      histories -> what was known at the moment of each interaction
rows         histories -> columns: an interaction a row, or a user a row
item_tokens  histories -> documents of item tokens, and their tokenizer
job          sources -> a store
"""

from headrace.ingestion.interactions.options import InteractionRows, Interactions, Part, Split

__all__ = ["InteractionRows", "Interactions", "Part", "Split"]
