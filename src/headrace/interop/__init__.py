"""A loader for code that does not take it as it is: torch's DataLoader, transformers, JAX, TensorFlow, torchtitan.

And a model for lm-eval's tasks: lm_eval.

accelerate and Lightning take the loader itself. Each module imports its framework: import the one that is used.
"""
