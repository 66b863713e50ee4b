"""One step's tokens -> logits, on whatever a model and a machine have."""
