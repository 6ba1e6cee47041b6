"""Decode pictures, and refuse damaged and very large ones.

- A picture becomes 8-bit RGB, turned upright as its EXIF data says. A grey one gets
  three equal channels. CMYK becomes RGB without a colour profile.
- Of 16 bits a channel, the upper 8 are kept. Floating-point pictures are refused.
- A transparent picture is laid on white, as web pages show it.
- Of an animation, or of several pages, the first is read.
- A picture is damaged if its decoder refuses it, or if it is a JPEG without an end. A
  changed byte inside a JPEG often goes unnoticed, because JPEGs have no checksums.
- The size is read from the header first. Nothing larger than `MAX_PIXELS` is decoded.
"""

import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageOps

from alexvgg_jax.errors import InputError

Images = UInt8[np.ndarray, "batch height width 3"]
Labels = Int32[np.ndarray, "batch"]
ToSquare = Callable[[np.ndarray, int], np.ndarray]  # resizes and crops to a side
Resize = Callable[[np.ndarray, int], np.ndarray]  # scales the short side to a size
Reader = Callable[[], tuple[bytes, str]]  # returns an encoded image and its name

MAX_PIXELS = 2**27  # of an image before and after it is scaled: 403 MB
MAX_BYTES = 2**30  # of a file
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"  # first bytes
TIFF, PPM = (b"II*\0", b"MM\0*"), (b"P2", b"P3", b"P5", b"P6")
OTHERS = ("BMP", "GIF", "PPM", "TIFF", "WEBP")  # Pillow reads their headers
# A JPEG's segments start with a marker. Zeros, restarts and fill bytes are no markers.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
EXIF_ORIENTATION = 0x0112
END, TABLES = 0xD9, (0xC4, 0xC8, 0xCC)  # TABLES are no headers of a frame


@dataclass(frozen=True)
class Encoded:
    """`count` labelled images that are not decoded yet."""

    about: str  # which set this is, as results name it
    count: int
    classes: tuple[str, ...]
    read: Callable[[np.ndarray], tuple[Sequence[Reader], Labels]]
    digest: str  # tells the images from others
    note: str = ""  # what the user should hear of this set: skipped files


class BadImages(InputError):
    """Some images cannot be decoded: `errors` has a line for each."""

    def __init__(self, errors: Sequence[InputError]):
        self.errors = errors
        listed = "; ".join(map(str, errors[:5]))
        more = len(errors) - 5
        rest = f"; and {more} more, which `check` lists" if more > 0 else ""
        leave_out = "--data.skip-bad, or --skip-bad in eval, leaves damaged images out"
        super().__init__(f"{listed}{rest} ({leave_out})")

    def __reduce__(self):  # another process can raise it
        return type(self), (self.errors,)


def decode_all(
    readers: Sequence[Reader], size: int
) -> tuple[Images, list[InputError | None]]:
    """Images of size x size, with an error for each that cannot be read or decoded.

    Uses all cores: OpenCV releases the GIL.
    """
    images = np.zeros((len(readers), size, size, 3), np.uint8)

    def one(i: int) -> InputError | None:
        try:
            images[i] = decode(*readers[i](), size)
        except InputError as error:
            return error

    def some(numbers: np.ndarray) -> list[InputError | None]:
        return [one(i) for i in numbers.tolist()]

    # A task for each image takes 5% longer, of photographs of 256 pixels.
    parts = np.array_split(np.arange(len(readers)), 4 * (os.cpu_count() or 1))
    with ThreadPoolExecutor() as pool:
        return images, [error for part in pool.map(some, parts) for error in part]


def decode_scales(
    readers: Sequence[Reader], scales: Sequence[int], resize: Resize
) -> list[tuple[str, list[np.ndarray] | InputError]]:
    """The names of images, and each image resized to several sizes of its short side,
    or the error if it cannot be read or decoded."""

    def work(reader: Reader) -> tuple[str, list[np.ndarray] | InputError]:
        name = ""
        try:
            encoded, name = reader()
            image = decode_whole(encoded, name, max(scales))
            return name, [resize(image, scale) for scale in scales]
        except InputError as error:
            return name, error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(work, readers))


def read_file(path: str | Path) -> bytes:
    """The content of an image's file. InputError if that is not a regular file."""
    try:
        # Faster than Path.read_bytes, and does not wait for the writer of a pipe.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: not a regular file")
            if status.st_size > MAX_BYTES:
                raise InputError(f"{path}: {status.st_size:,} bytes are too many")
            content = os.read(file, status.st_size)
        finally:
            os.close(file)
        if len(content) < status.st_size:
            raise InputError(f"{path}: changed while it was read")
        return content
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def scale_short(image: np.ndarray, size: int) -> np.ndarray:
    """The image with its short side scaled to `size`, and its aspect ratio."""
    height, width = image.shape[:2]
    short = min(height, width)
    if short == size:
        return image
    method = cv2.INTER_AREA if short > size else cv2.INTER_LINEAR
    scaled = (round(width * size / short), round(height * size / short))
    return cv2.resize(image, scaled, interpolation=method)


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """AlexNet §2: scale the short side to `size`, then cut out the centre square.

    VGG §3.1 takes its crops from the whole scaled image, and this program from the
    square.
    """
    image = scale_short(image, size)
    top, left = (n - size for n in image.shape[:2])
    return image[top // 2 :, left // 2 :][:size, :size]


def decode(
    encoded: bytes, name: str, size: int, to_square: ToSquare = fit
) -> UInt8[np.ndarray, "size size 3"]:
    """An encoded image as RGB, resized and cropped to size x size by `to_square`.

    Raises InputError, which contains `name`, if it is damaged or too large.
    """
    return to_square(decode_whole(encoded, name, size), size)


def decode_whole(
    encoded: bytes, name: str, size: int
) -> UInt8[np.ndarray, "height width 3"]:
    """An encoded image as RGB, in its own size. Raises what `decode` raises if its
    short side is to be scaled to `size`."""
    image = None
    try:  # decoders raise many kinds of errors for damaged data
        height, width, transparent = _header(encoded)
        _check_size(height, width, size, name)
        if encoded.startswith(TIFF):
            _check_tiff(encoded)
        if encoded.startswith(PPM):
            _check_ppm(encoded, name)
        if transparent:
            image = _on_white(encoded)
        else:
            pixels = np.frombuffer(encoded, np.uint8)
            image = cv2.imdecode(pixels, cv2.IMREAD_COLOR_RGB)
    except InputError:
        raise
    except Exception:
        image = None
    if image is None or image.dtype != np.uint8:
        raise InputError(f"{name}: not an image that can be decoded")
    return image


def peculiarities(encoded: bytes) -> tuple[str, ...]:
    """Which of "grey", "CMYK", "transparent" and "rotated" an image that can be decoded
    is. The last one means that its EXIF data turns it."""
    with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG", *OTHERS)) as image:
        holds = {
            "grey": image.mode in ("1", "L", "LA", "I;16"),
            "CMYK": image.mode == "CMYK",
            "transparent": image.has_transparency_data,
            "rotated": image.getexif().get(EXIF_ORIENTATION, 1) != 1,
        }
    return tuple(name for name, is_so in holds.items() if is_so)


def _header(encoded: bytes) -> tuple[int, int, bool]:
    """Height and width, and whether pixels can be transparent.

    Raises all kinds of errors if it is not the header of an image.
    """
    if encoded.startswith(JPEG):
        return *_jpeg_size(encoded), False
    if encoded.startswith(PNG):  # the header has a fixed place, palettes follow it
        width, height = (int.from_bytes(encoded[at : at + 4]) for at in (16, 20))
        has_alpha = encoded[25] in (4, 6)
        return height, width, has_alpha or _has_transparency(encoded)
    with Image.open(io.BytesIO(encoded), formats=OTHERS) as image:
        return image.height, image.width, image.has_transparency_data


def _has_transparency(png: bytes) -> bool:
    """Whether a PNG has a transparent colour, in a chunk before its pixels."""
    at = len(PNG)
    while (chunk := png[at + 4 : at + 8]) not in (b"IDAT", b""):
        if chunk == b"tRNS":
            return True
        at += 12 + int.from_bytes(png[at : at + 4])
    return False


def _check_ppm(encoded: bytes, name: str) -> None:
    """InputError if white is neither 255 nor 65535: OpenCV would not scale it."""
    head = re.sub(rb"#[^\n]*", b"", encoded[:1000]).split()
    if int(head[3]) not in (255, 65535):
        raise InputError(f"{name}: its largest value is {int(head[3])}, not 255")


def _jpeg_size(encoded: bytes) -> tuple[int, int]:
    """Height and width of a JPEG. ValueError if it is cut short."""
    size, at = None, 2
    while marker := MARKER.search(encoded, at):
        at = marker.end()
        kind = encoded[at - 1]
        if 0xC0 <= kind <= 0xCF and kind not in TABLES and size is None:
            *_, a, b, c, d = encoded[at : at + 7]
            size = a << 8 | b, c << 8 | d
        # Searching to the end is only needed if something follows it.
        if size and (kind == END or encoded.endswith(b"\xff\xd9")):
            return size
        at += encoded[at] << 8 | encoded[at + 1]
    raise ValueError("it has no end")


def _check_size(height: int, width: int, size: int, name: str) -> None:
    short, long = sorted((height, width))
    if height * width > MAX_PIXELS or size * long * size > MAX_PIXELS * short:
        raise InputError(
            f"{name}: {width:,} x {height:,} pixels, scaled to {size} on the short "
            f"side, are more than {MAX_PIXELS:,}"
        )


def _check_tiff(encoded: bytes) -> None:
    """Raise an error of Pillow or zlib if the first page is damaged.

    OpenCV prints what its decoder complains of, and keeps the picture. Pillow raises an
    error, but like OpenCV it does not read the checksums of zlib.
    """
    with Image.open(io.BytesIO(encoded), formats=("TIFF",)) as image:
        page: Any = image
        tags: dict[int, Any] = dict(page.tag_v2)
        image.load()
    if tags.get(259) in (8, 32946):  # deflate, in strips or in tiles
        starts, sizes = (tags.get(a) or tags[b] for a, b in ((273, 324), (279, 325)))
        for start, size in zip(starts, sizes, strict=True):
            zlib.decompressobj().decompress(encoded[start : start + size], MAX_BYTES)


def _on_white(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        image.verify()  # the checksums of a PNG, which decoding ignores
    with Image.open(io.BytesIO(encoded)) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "I;16":  # Pillow would make all but the darkest white
            grey = np.asarray(upright)
            grey = np.where(grey == image.info["transparency"], 255, grey >> 8)
            return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        upright = upright.convert("RGBA")
    white = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(white, upright).convert("RGB"))
