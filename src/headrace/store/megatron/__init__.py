"""Megatron's .bin and .idx files <-> a store: read in place (source), and written from one (export)."""
