"""Logits of a row -> its next token."""
