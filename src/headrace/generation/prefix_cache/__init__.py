"""Keys and values of prompts' common prefixes, kept so that each is computed once.

token_hashes token ids -> the key of each block of a fixed number of tokens
block_file   a block's keys and values -> the bytes of a file, and back, checked
directory    blocks -> files of a directory that processes share, written in the background
cache        a prompt -> the keys and values of the prefix that is known, within a bound of memory
"""

from headrace.generation.prefix_cache.cache import PrefixCache, PrefixMatch
from headrace.generation.prefix_cache.directory import BlockDirectory
from headrace.generation.prefix_cache.token_hashes import BLOCK_TOKENS, block_keys, root_key

__all__ = ["BLOCK_TOKENS", "BlockDirectory", "PrefixCache", "PrefixMatch", "block_keys", "root_key"]
