"""A loader for code that does not take it as it is: torch's DataLoader, transformers, JAX, TensorFlow, torchtitan.

accelerate and Lightning take the loader itself. Each module imports its framework: import the one that is used.
"""
