"""Rows and a model -> one optimizer step, as all ranks agree on it.

train_step      the step: microbatches, gradients, clipping, update
trainable       this process's part of the model: losses, gradients, changed weights
divergence      whether a step diverged
device, memory  torch device and dtype; freed memory kept for the next step
mfu             a device's peak FLOP/s
"""
