"""Requests -> rows, by several workers with an engine each."""
