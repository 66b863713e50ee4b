"""The one loader, adapted to transformers, torch's DataLoader, JAX and TensorFlow."""
