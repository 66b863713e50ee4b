"""Paths and URLs -> weights in a model's tensors, and back.

location      path, URL or hf:// name -> a local directory, every byte checked
load          run, Hugging Face directory or file <-> model and tokenizer
adapter       a run that tunes by LoRA -> peft's adapter directory
hf_directory  Hugging Face directory -> shape and tensors
hf_tokenizer  tokenizer <-> files of transformers
checkpoint    a run's checkpoint directories -> the newest whole one
identity      a directory -> a hash of shape and weights
finite        tensors -> an error that names those with NaN or infinities
"""
