"""An encoded image's bytes -> its height and width, or its pixels; JPEG by libjpeg-turbo, the rest by Pillow.

An orientation in a JPEG's EXIF is obeyed: heights, widths and pixels are those of the image as it is shown.
"""

from __future__ import annotations

import io
import struct
import threading
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError, DocumentError
from headrace.native import kernels
from headrace.types import Bytes

_ORIENTATION: Final = 0x0112
_MAX_PIXELS: Final = 1 << 28
_INSTALL: Final = 'pip install "headrace[images]"'


class _PerThread(threading.local):
    """Buffers for the pixels of one image and for what the extension needs beside them, used again for the next."""

    def __init__(self) -> None:
        self.buffer = np.empty(0, np.uint8)
        self.scratch = np.empty(1 << 18, np.uint8)

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        if len(self.buffer) < nbytes:
            self.buffer = np.empty(nbytes + nbytes // 4, np.uint8)
        return self.buffer


class _Count:
    """Images decoded in this process, counted for tests."""

    images = 0


_thread = _PerThread()
decodes = _Count()


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """An image's size as it is shown, and what it is encoded as."""

    height: int
    width: int
    orientation: int
    """Of EXIF: 1 to 8; from 5 on, the stored image has height and width exchanged."""
    format: str
    """JPEG, PNG, ... as Pillow names it."""


def _pillow() -> Any:
    try:
        return import_module("PIL.Image")
    except ModuleNotFoundError:
        raise ConfigError(f"images need Pillow, which is not installed: {_INSTALL}") from None


def _simplejpeg() -> Any:
    """None where it is not installed: Pillow decodes JPEG then, at half the speed."""
    try:
        return import_module("simplejpeg")
    except ModuleNotFoundError:
        return None


def is_jpeg(data: Bytes) -> bool:
    """Whether the bytes begin as a JPEG does."""
    return bytes(data[:3]) == b"\xff\xd8\xff"


def read_header(data: Bytes) -> ImageHeader:
    """An image's size and format; its pixels are not decoded.

    Raises:
        DocumentError: not an image that can be read.
    """
    simplejpeg = _simplejpeg() if is_jpeg(data) else None
    try:
        if simplejpeg is not None:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            orientation, encoding = _jpeg_orientation(data), "JPEG"
        else:
            with _open(data) as image:
                width, height = image.size
                encoding = str(image.format)
                orientation = int(image.getexif().get(_ORIENTATION, 1)) if encoding in ("JPEG", "MPO") else 1
    except DocumentError:
        raise
    except Exception as error:  # decoders raise whatever they like
        raise DocumentError(f"not an image that can be read: {error}") from error
    if orientation >= 5:
        height, width = width, height
    return ImageHeader(height, width, orientation if 1 <= orientation <= 8 else 1, encoding)


def _open(data: Bytes) -> Any:
    pillow = _pillow()
    try:
        return pillow.open(io.BytesIO(data))
    except Exception as error:
        raise DocumentError(f"not an image that can be read: {error}") from error


def decode_rgb(
    data: Bytes, header: ImageHeader, *, least: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """The pixels of an image.

    Args:
        data: the encoded image.
        header: of these bytes.
        least: height and width that are enough: a JPEG is decoded at a half, a quarter or an eighth of its size
            where that is still as large.

    Returns:
        uint8 [height, width, 3]; valid until the same thread decodes the next image.

    Raises:
        DocumentError: damaged or truncated.
    """
    decodes.images += 1
    if header.height * header.width > _MAX_PIXELS:
        raise DocumentError(f"an image of {header.width} x {header.height}; the limit is 2**28 pixels")
    simplejpeg = _simplejpeg() if is_jpeg(data) else None
    try:
        if simplejpeg is not None:
            pixels = _decode_jpeg(simplejpeg, data, header, least)
        else:
            with _open(data) as image:
                pixels = _rgb_of(image)
    except DocumentError:
        raise
    except Exception as error:
        raise DocumentError(f"damaged image: {error}") from error
    return _oriented(pixels, header.orientation)


def decode_part(data: Bytes, header: ImageHeader, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """The pixels of a part of an image, those of `decode_rgb` there.

    The extension decodes the part of a baseline JPEG alone: blocks outside of it are read and not transformed, and
    those behind it are not read, so that damage there is not seen. Of all other images the whole is decoded.

    Args:
        data: the encoded image.
        header: of these bytes.
        box: y0, x0, y1, x1 in the image as it is shown; inside of it, and not empty.

    Returns:
        uint8 [y1 - y0, x1 - x0, 3]; valid until the same thread decodes the next image.

    Raises:
        DocumentError: damaged or truncated.
    """
    y0, x0, y1, x1 = box
    native = kernels() if header.format == "JPEG" else None
    if native is not None and header.height * header.width <= _MAX_PIXELS:
        stored = _stored_box(box, header)
        height, width = stored[2] - stored[0], stored[3] - stored[1]
        size = (header.height, header.width) if header.orientation < 5 else (header.width, header.height)
        pixels = _thread.take(height * width * 3)[: height * width * 3].reshape(height, width, 3)
        done = native.decode_jpeg_part(data, *size, *stored, pixels, _thread.scratch)
        if done > 1:
            _thread.scratch = np.empty(done + done // 4, np.uint8)
            done = native.decode_jpeg_part(data, *size, *stored, pixels, _thread.scratch)
        if done:
            decodes.images += 1
            return _oriented(pixels, header.orientation)
    return decode_rgb(data, header)[y0:y1, x0:x1]


def _stored_box(box: tuple[int, int, int, int], header: ImageHeader) -> tuple[int, int, int, int]:
    """Where a part of an image as it is shown lies in the image as it is stored: `_oriented`, backwards."""
    y0, x0, y1, x1 = box
    if header.orientation in (2, 3, 6, 7):
        x0, x1 = header.width - x1, header.width - x0
    if header.orientation in (3, 4, 7, 8):
        y0, y1 = header.height - y1, header.height - y0
    return (x0, y0, x1, y1) if header.orientation >= 5 else (y0, x0, y1, x1)


def _decode_jpeg(
    simplejpeg: Any, data: Bytes, header: ImageHeader, least: tuple[int, int] | None
) -> NDArray[np.uint8]:
    buffer = _thread.take(header.height * header.width * 3)
    smaller: dict[str, Any] = {}
    if least is not None:
        height, width = least if header.orientation < 5 else least[::-1]
        smaller = {"min_height": height, "min_width": width, "min_factor": 2.0}
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, **smaller)
    except ValueError:
        with _open(data) as image:  # CMYK and the like; damage is an error here as well
            pixels = _rgb_of(image)
    return pixels


def _rgb_of(image: Any) -> NDArray[np.uint8]:
    if image.mode.startswith(("I;16", "I", "F")):
        values = np.asarray(image)
        if values.dtype.kind == "f" or int(values.min()) < 0 or int(values.max()) > 65_535:
            raise DocumentError(
                f"pixels are {values.dtype} from {values.min()} to {values.max()}: convert to 8 bits"
            )
        if int(values.max()) > 255:
            values = values >> 8
        return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)
    pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
    return pixels


def _oriented(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The image as it is shown: EXIF's eight orientations."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _jpeg_orientation(data: Bytes) -> int:
    """EXIF's orientation of a JPEG; 1 where it has none. Reads the segments before the pixels."""
    view, at = memoryview(data), 2
    while at + 4 <= len(view) and view[at] == 0xFF:
        marker, length = view[at + 1], int.from_bytes(view[at + 2 : at + 4], "big")
        if marker == 0xDA or length < 2:
            return 1
        if marker == 0xE1 and bytes(view[at + 4 : at + 10]) == b"Exif\0\0":
            return _tiff_orientation(view[at + 10 : at + 2 + length])
        at += 2 + length
    return 1


def _tiff_orientation(tiff: memoryview) -> int:
    order = {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]))
    if order is None:
        return 1
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, first)
        for i in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, first + 2 + 12 * i)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def decode_mask(data: Bytes) -> NDArray[np.int32]:
    """The class or instance number of each pixel: a grey or palette image as it is stored.

    Returns:
        int32 [height, width].

    Raises:
        DocumentError: damaged, or with more than one value a pixel.
    """
    try:
        with _open(data) as image:
            values = np.asarray(image)
    except DocumentError:
        raise
    except Exception as error:
        raise DocumentError(f"damaged mask: {error}") from error
    if values.ndim != 2 or values.dtype.kind not in "uib":
        raise DocumentError(f"a mask of {values.dtype} {list(values.shape)}; expected one integer a pixel")
    return values.astype(np.int32)


def check_image(data: Bytes) -> ImageHeader:
    """Decode an image whole, and return its header.

    Raises:
        DocumentError: it is damaged, truncated, or no image.
    """
    header = read_header(data)
    if header.height < 1 or header.width < 1:
        raise DocumentError(f"an image of {header.width} x {header.height} pixels")
    decode_rgb(data, header)
    return header
