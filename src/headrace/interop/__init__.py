"""The one loader, adapted to transformers, torch's DataLoader, JAX and TensorFlow; import the one that is used."""
