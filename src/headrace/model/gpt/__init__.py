"""GPT-3's decoder: its shape, the paper's sizes, GPT-2's files.

gpt          token ids -> logits
sizes        names of the GPT-3 paper's Table 2.1 -> shapes
gpt2_format  transformers' GPT-2 config and tensors <-> ours
"""
