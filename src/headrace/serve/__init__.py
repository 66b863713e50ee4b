"""A model over HTTP: OpenAI's API, a page for people, and batches that survive a kill.

options        ServeOptions
run            model and options -> checked, listening
process        the running server: model, uvicorn, signals
app            the application: all routes
model_loader   the model, and requests that came before it was loaded
connection     bytes -> requests, within limits
middleware     host, origin, key and size of every request; errors
origins        Host and Origin headers -> allowed or not
redaction      error messages without the server's paths
protocol/      OpenAI's bodies, errors and document
completions/   a body -> the engine's requests -> a response
token_stream   tokens of one request, for its coroutine
engine_thread  the engine's own thread
metrics, history   Prometheus, and the last 15 minutes for plots
files, batches/    uploads and background jobs, kept over restarts
predictions/   prediction stores as JSON
page/          the page
"""

from headrace.serve.options import ServeOptions, ServerInfo
from headrace.serve.run import serve

__all__ = ["ServeOptions", "ServerInfo", "serve"]
