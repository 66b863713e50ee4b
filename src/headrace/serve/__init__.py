"""The model over HTTP: OpenAI's protocol, a page, and batches that survive a kill.

run        options -> a server that runs and drains
app        the routes
guard      keys, sizes and errors in front of them
wire, bodies, refusal   JSON in, JSON out, errors as OpenAI shapes them
served     the model: prompts to ids, ids to text, messages to a prompt
ask        a body -> the engine's requests
drive      the engine's own thread -> tokens in asyncio
answer     tokens -> a stream's frames, or one object
respond    both on the wire; who leaves is cancelled
files, batches   uploads and background jobs, kept over restarts
metrics    Prometheus
openapi    the document
browse, page.html   prediction stores and the page
"""

from headrace.serve.run import Ready, serve

__all__ = ["Ready", "serve"]
