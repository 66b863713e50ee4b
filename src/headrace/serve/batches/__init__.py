"""A file of requests -> a file of responses, in the background, kept over restarts.

queue        the worker that runs batches, and OpenAI's paths
store        batch objects and working files on disk
input_file   JSON lines -> requests, or what is wrong with them
results      committed rows -> the lines of the output files
"""

from headrace.serve.batches.queue import BatchQueue

__all__ = ["BatchQueue"]
