"""Low-rank matrices beside frozen weights, and peft's adapter directories.

layers          a model with low-rank matrices; and merged again
adapter_format  peft's adapter directory <-> low-rank matrices
"""
