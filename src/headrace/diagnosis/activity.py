"""A thread's stack and kernel state -> what it is doing: reading, decompressing, parsing, handing over, nothing.

A stack names Python functions only; work in C is named by the text of the line that called it.
"""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from types import CodeType, FrameType
from typing import Final, Literal, cast

from headrace.diagnosis.kernel import KernelState

Activity = Literal[
    "storage",
    "reading",
    "network",
    "decompression",
    "parsing",
    "tokenizing",
    "hand_over",
    "device_copy",
    "cpu",
    "sleep",
    "idle",
]

CPU_ACTIVITIES: Final[tuple[Activity, ...]] = ("decompression", "parsing", "tokenizing", "reading", "cpu")
"""Work that needs a core."""
_MAX_FRAMES: Final = 40
_LOOP: Final = str(Path(__file__).with_name("loop.py"))
"""Frames of this file call the loader."""


def _patterns(**activities: tuple[str, ...]) -> tuple[tuple[re.Pattern[str], Activity], ...]:
    return tuple((re.compile("|".join(texts)), cast("Activity", name)) for name, texts in activities.items())


# A file's path or a line's text -> an activity; the first that matches counts.
_PATHS: Final = _patterns(
    decompression=(
        r"/(gzip|bz2|lzma|_compression|zipfile/\w+|zipfile)\.py$",
        r"/(zstandard|zstd|lz4|isal|rapidgzip|blosc\w*|numcodecs|snappy|PIL|torchvision/io|imageio\w*)/",
    ),
    tokenizing=(r"/(tokenizers|tiktoken|sentencepiece|gigatoken)/", r"/transformers/\w*tokeniz\w*"),
    parsing=(r"/(json|simdjson|orjson|csv|xml|html|pandas/io|yaml|msgspec|ujson)(/|\.py$)",),
    hand_over=(
        r"/multiprocessing/(queues|reduction|shared_memory|connection|heap|resource_sharer)\.py$",
        r"/pickle\.py$",
        r"/torch/(multiprocessing|utils/data/_utils/pin_memory)",
    ),
    network=(
        r"/(socket|ssl|http/client|urllib/request)\.py$",
        r"/(urllib3|requests|aiohttp|httpx|httpcore|botocore|s3fs|gcsfs|fsspec|obstore|smart_open)/",
    ),
)
_LINES: Final = _patterns(
    decompression=(
        r"decompress|gunzip|imdecode|decode_jpe?g|inflate|unzip|frame\.open|Image\.open",
        r"\.convert\(\"RGB",
    ),
    tokenizing=(r"token(ize|izer)|\.encode_batch|\.encode_ordinary|\bbpe\b",),
    parsing=(
        r"(json|simdjson|orjson|parser|csv|xml|msgpack|yaml)\w*\.(loads?|parse|decode|reader|fromstring)",
        r"read_csv|parse_",
    ),
    hand_over=(r"ForkingPickler|pickle\.(loads|dumps)|recv_bytes|send_bytes|share_memory",),
    device_copy=(r"\.cuda\(|\.to\((\w*dev|[\"'](cuda|xpu|mps))|device_put|pin_memory\(|non_blocking",),
    network=(r"urlopen|\.recv(_into)?\(|requests\.get|get_object|get_range|download",),
    storage=(r"\bos\.p?readv?\(|\.readinto\(|np\.(load|memmap|fromfile)|read_bytes\(|\bopen\(|\.read\(",),
)
# Where a thread waits for another: the innermost frame's file and function, or its line.
_IDLE_FUNCTIONS: Final = re.compile(
    r"/(threading\.py:(wait|_wait_for_tstate_lock|join|acquire)|queue\.py:(get|put)|selectors\.py:select"
    r"|multiprocessing/connection\.py:(wait|poll|_poll)|multiprocessing/popen_\w+\.py:\w+|asyncio/\w+\.py:\w+"
    r"|socketserver\.py:serve_forever|socket\.py:accept)$"
)
_IDLE_LINES: Final = re.compile(
    r"(queue|_q|slots|inbox|tasks)\w*\.get\(|\.acquire\(|\.wait\(|\.join\(|\.result\(|\.select\(|\bself\._poll\("
    r"|as_completed|nwait\(|\.accept\("
)
_SLEEP: Final = re.compile(r"\bsleep\(")


class StackClassifier:
    """Names what a stack is doing; remembers each line that it has looked at."""

    def __init__(self) -> None:
        self._known: dict[tuple[CodeType, int], tuple[Activity | None, bool]] = {}

    def activity(self, frame: FrameType | None, state: KernelState) -> Activity:
        """What a thread is doing.

        Args:
            frame: the innermost frame of its stack.
            state: what the kernel says about it.
        """
        blocked = self._blocked(frame, state)
        if blocked is not None:
            return blocked
        named = self.named(frame)
        if state == "socket" and named != "hand_over":
            return "network"
        # An extension's code without a name, which is blocked, waits for threads of its own.
        if named is None and state in ("lock", "poll", "other"):
            return "idle"
        # On a core, or waiting for one, in a read: copying from the page cache, or between two waits for the disk.
        return "reading" if named == "storage" else named or "cpu"

    def _blocked(self, frame: FrameType | None, state: KernelState) -> Activity | None:
        """What a thread waits for where its innermost frame says so: stacks are long, and idle threads many."""
        if state in ("disk", "file"):
            return "storage"
        if state == "sleep":
            return "sleep"
        if state == "pipe":  # a reader of an empty pipe waits; a writer of a full one hands over
            sends = frame is not None and frame.f_code.co_name in ("_send", "_write", "_send_bytes")
            return "hand_over" if sends else "idle"
        return "idle" if state != "running" and frame is not None and self._look(frame)[1] else None

    def named(self, frame: FrameType | None) -> Activity | None:
        """The activity that the nearest known function of the loader names; above it is the user's loop."""
        depth = 0
        while frame is not None and depth < _MAX_FRAMES and frame.f_code.co_filename != _LOOP:
            known = self._look(frame)[0]
            if known is not None:
                return known
            frame, depth = frame.f_back, depth + 1
        return None

    def _look(self, frame: FrameType) -> tuple[Activity | None, bool]:
        key = (frame.f_code, frame.f_lineno or 0)  # a frame that is being left has no line
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _look(frame.f_code, frame.f_lineno)
        return known


def _look(code: CodeType, line_number: int) -> tuple[Activity | None, bool]:
    path = code.co_filename.replace("\\", "/")
    line = linecache.getline(code.co_filename, line_number)
    waits = bool(_IDLE_FUNCTIONS.search(f"{path}:{code.co_name}") or _IDLE_LINES.search(line))
    for text, patterns in ((path, _PATHS), (line, _LINES)):
        for pattern, activity in patterns:
            if pattern.search(text):
                return activity, waits
    return ("sleep" if _SLEEP.search(line) else None), waits
