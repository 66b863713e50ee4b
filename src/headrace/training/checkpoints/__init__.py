"""Tensors and a state -> checkpoints, in a directory or on an object store, and back.

writer            tensors and a state -> a checkpoint, while training goes on
place             where checkpoints are kept: the interface, and local directories
remote_place      the same on an object store: one object, created if absent, is the commit
distributed_save  tensors of all ranks -> one checkpoint's files, each written by the rank that holds them
save_watch        a save's time limit, and a line a minute while it lasts
state             a checkpoint -> step, tensors, loader position, random numbers
"""
