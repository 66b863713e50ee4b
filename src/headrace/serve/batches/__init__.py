"""A file of requests -> a file of responses, in the background, kept over restarts.

queue        batch objects and the worker that runs them
input_file   JSON lines -> requests, or what is wrong with them
results      committed rows -> the lines of the output files
"""

from headrace.serve.batches.queue import BatchQueue

__all__ = ["BatchQueue"]
