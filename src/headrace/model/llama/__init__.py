"""The decoder of Llama's family: its shape, published sizes, transformers' files.

decoder                          token ids -> logits
decoder_config                   its shape, and what cannot be
rope                             positions -> rotary angles, with their scalings
decoder_sizes                    names of published models -> shapes
architectures                    what each model_type has beyond Llama
decoder_format, decoder_tensors  transformers' config and tensors <-> ours
"""
