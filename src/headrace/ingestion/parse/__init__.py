"""A block of records, or a table -> texts, and what is wrong with the others; `reader` knows the formats."""
