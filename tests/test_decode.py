import io
import os
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from alexvgg_jax.data.decode import BadImages, decode, decode_all, read_file
from alexvgg_jax.errors import InputError

NOISE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
PICTURE = cv2.resize(NOISE, (48, 32), interpolation=cv2.INTER_CUBIC)


def saved(image, kind: str = "PNG", **options) -> bytes:
    """An image as Pillow saves it."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def square(encoded: bytes) -> np.ndarray:
    """The centre of PICTURE, as it is decoded."""
    return decode(encoded, "picture", 32)


CENTRE = PICTURE[:, 8:40]


def error(encoded: bytes, size: int = 32) -> str:
    with pytest.raises(InputError, match="^d/x.jpg: ") as caught:
        decode(encoded, "d/x.jpg", size)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_exact_formats_keep_every_pixel(kind, options):
    np.testing.assert_array_equal(square(saved(PICTURE, kind, **options)), CENTRE)


def test_the_first_frame_of_an_animation_is_read():
    frames = [Image.fromarray(PICTURE).quantize(16), Image.new("P", (48, 32))]
    first = np.asarray(frames[0].convert("RGB"))[:, 8:40]
    animated = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(square(animated), first)


def test_grey_pictures_get_three_equal_channels():
    grey = PICTURE[..., 0]
    np.testing.assert_array_equal(
        square(saved(grey)), np.repeat(CENTRE[..., :1], 3, axis=2)
    )


def test_the_upper_bits_of_16_are_kept():
    deep = PICTURE[..., ::-1].astype(np.uint16) * 256 + 255
    encoded = cv2.imencode(".png", deep)[1].tobytes()
    np.testing.assert_array_equal(square(encoded), CENTRE)


def test_cmyk_becomes_rgb():
    encoded = saved(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=98)
    assert np.abs(square(encoded).astype(int) - CENTRE).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_are_white(kind):
    alpha = np.full(PICTURE.shape[:2], 255, np.uint8)
    alpha[:, :24] = 0
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = square(saved(np.dstack([PICTURE, alpha]), kind, **options))
    assert (image[:, :16] == 255).all()
    np.testing.assert_array_equal(image[:, 16:], CENTRE[:, 16:])


def test_a_transparent_grey_of_16_bits_is_white():
    """And a text that only names the chunk makes nothing transparent."""
    grey = np.full((8, 8), 102 << 8, np.uint16)
    grey[:, 4:] = 7
    image = Image.fromarray(grey)
    white = decode(saved(image, transparency=102 << 8), "x", 8)
    assert (white[:, :4] == 255).all() and (white[:, 4:] == 0).all()
    text = PngInfo()
    text.add_text("tRNS", "tRNS")
    assert (decode(saved(image, pnginfo=text), "x", 8)[:, :4] == 102).all()


@pytest.mark.parametrize("largest", [100, 1023])
def test_a_ppm_whose_white_is_another_number_is_refused(largest):
    """OpenCV would read it as if white were 255 or 65535."""
    head, pixels = f"P6\n# 8 x 8\n8 8\n{largest}\n".encode(), bytes(8 * 8 * 3 * 2)
    assert (
        error(head + pixels, 8) == f"d/x.jpg: its largest value is {largest}, not 255"
    )
    decode(b"P6 8 8 65535 " + pixels, "x", 8)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_of_a_png_is_white(mode):
    image = Image.fromarray(np.full((8, 8, 3), 102, np.uint8)).convert(mode)
    colour = image.getpixel((0, 0))
    assert (decode(saved(image, transparency=colour), "x", 8) == 255).all()
    assert (decode(saved(image), "x", 8) == 102).all()


@pytest.mark.parametrize("transparent", [False, True])
def test_pictures_are_turned_upright(transparent):
    """As the EXIF data says; 6 is a camera held upright."""
    image = Image.fromarray(PICTURE)
    if transparent:
        image.putalpha(255)
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(
        square(saved(image, exif=exif)), np.rot90(CENTRE, k=-1)
    )


def test_floating_point_pictures_are_refused():
    error(saved(PICTURE[..., 0].astype(np.float32), "TIFF"))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_damaged(progressive):
    whole = saved(PICTURE, "JPEG", progressive=progressive)
    thumbnail = saved(NOISE, "JPEG")  # has an end of its own
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail
    whole = whole[:2] + segment + whole[2:]
    square(whole)
    square(whole + b"what cameras append \xff\xd9\xff\xda")
    for length in (len(whole) - 1, len(whole) - 2, len(whole) * 2 // 3):
        error(whole[:length])
        for rest in (b"\0", b"\x55"):  # an unfinished download; OpenCV decodes some
            error(whole[:length] + rest * len(whole))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF", "JPEG"])
def test_a_picture_that_is_cut_short_is_damaged(kind):
    whole = saved(PICTURE, kind)
    for length in (0, 2, 9, 30, len(whole) // 2, len(whole) - 20):
        error(whole[:length])


def test_a_changed_byte_of_a_png_is_found():
    whole = saved(PICTURE)
    for place in range(40, len(whole) - 12, 97):
        error(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])


@pytest.mark.parametrize("kind", ["tiff_lzw", "tiff_adobe_deflate", "RGBA PNG"])
def test_zeroed_bytes_are_found(kind):
    png = kind == "RGBA PNG"
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 4), np.uint8)
    how = {} if png else {"compression": kind}
    whole = saved(noise if png else noise[..., :3], "PNG" if png else "TIFF", **how)
    square(whole)
    start, count = (len(whole) - 16, 4) if png else (len(whole) // 2, 64)  # its CRC
    error(whole[:start] + bytes(count) + whole[start + count :])


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", checksum)
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


@pytest.mark.parametrize(
    "size", [(40_000, 40_000), (1, 60_000), (1_000_000, 1), (2**31 - 1, 2**31 - 1)]
)
def test_an_absurd_size_is_refused_before_decoding(size, monkeypatch):
    """Also if only the scaled picture would be that large."""
    monkeypatch.delattr(cv2, "imdecode")
    assert "pixels" in error(png_of(*size), 224)
    frame = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 60_000, 60_000) + bytes(10)
    assert "60,000 x 60,000" in error(b"\xff\xd8" + frame + b"\xff\xd9")
    huge = bytearray(saved(PICTURE, "BMP"))
    huge[18:26] = struct.pack("<ii", 9_000, 9_000_000)
    error(bytes(huge))


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    start = time.monotonic()
    for name, reason in {
        "fifo.jpg": "not a regular file",
        "zero.jpg": "not a regular file",
        "gone.jpg": "No such file",
    }.items():
        with pytest.raises(InputError, match=f"{name}: {reason}"):
            read_file(tmp_path / name)
    assert time.monotonic() - start < 1
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="1,099,511,627,776 bytes"):
        read_file(tmp_path / "sparse.jpg")


def test_bad_pictures_do_not_stop_the_others():
    contents = [saved(PICTURE), b"no", saved(PICTURE, "JPEG")[:-9], saved(PICTURE)]
    readers = [lambda c=c, i=i: (c, f"{i}.png") for i, c in enumerate(contents)]
    images, errors = decode_all(readers, 32)
    bad = [e for e in errors if e]
    assert [str(e).split(":")[0] for e in bad] == ["1.png", "2.png"]
    np.testing.assert_array_equal(images[0], images[3])
    text = str(BadImages(bad * 4))
    assert "1.png" in text and "2.png" in text and "and 3 more" in text


def test_a_message_is_one_line_whatever_the_name():
    name = os.fsdecode(b"new\nline\xff.png")
    with pytest.raises(InputError) as caught:
        decode(b"no", str(Path(name)), 8)
    assert str(caught.value).startswith(r"new\nline\udcff.png: ")
