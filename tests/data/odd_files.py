"""A hundred image files of every odd kind, each with what should come of it."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
YELLOW, WHITE, BLACK, GREY = (255, 255, 0), (255, 255, 255), (0, 0, 0), (128, 128, 128)
INKS = {  # CMYK → RGB, the colours every printer knows
    "red": ((0, 255, 255, 0), RED),
    "green": ((255, 0, 255, 0), GREEN),
    "blue": ((255, 255, 0, 0), BLUE),
    "black": ((0, 0, 0, 255), BLACK),
    "paper": ((0, 0, 0, 0), WHITE),
    "dark": ((0, 0, 0, 127), GREY),
}
# How the four corners (top left, top right, bottom right, bottom left) of an upright picture lie
# in the file, for each EXIF orientation: EXIF 2.32, tag 274, where row 0 and column 0 are.
STORED = {
    1: (0, 1, 2, 3),
    2: (1, 0, 3, 2),
    3: (2, 3, 0, 1),
    4: (3, 2, 1, 0),
    5: (0, 3, 2, 1),
    6: (1, 2, 3, 0),
    7: (2, 1, 0, 3),
    8: (3, 0, 1, 2),
}
CORNERS = (RED, GREEN, BLUE, YELLOW)


class Expected(NamedTuple):
    """What reading a file gives: nothing, or a picture of (width, height) with these corners,
    clockwise from the top left, each channel right to within `within`.
    """

    readable: bool
    size: tuple[int, int] = (0, 0)
    corners: tuple[Colour, ...] = ()
    within: int = 1


def plain(size: tuple[int, int], colour: Colour, within: int = 1) -> Expected:
    return Expected(True, size, (colour,) * 4, within)


UNREADABLE = Expected(False)


def write_odd_files(folder: Path) -> dict[str, Expected]:
    """Write 100 entries into `folder`: the name of each, and what is to be expected of it.

    `folder.jpg` is a folder: not a bad image of a folder data set, but none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected: dict[str, Expected] = {}
    for write in (broken, turned, printed, deep, transparent, shaped, named, formats, floats):
        for name, content, result in write():
            path = folder / name
            if callable(content):
                content(path)
            else:
                path.write_bytes(content)
            assert name not in expected
            expected[name] = result
    for name in list(expected):
        if name.startswith("forbidden") and os.access(folder / name, os.R_OK):
            expected[name] = plain((6, 4), BLUE)  # root reads everything
    return expected


Entries = Iterator[tuple[str, bytes | Callable[[Path], object], Expected]]


def encode(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(side: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def broken() -> Entries:
    """28: cut off, empty, no image at all, links to nowhere, folders, forbidden."""
    for share in (10, 30, 50, 70, 90):
        whole = encode(noise(64, share), "jpeg", quality=90)
        yield f"cut_{share}.jpg", whole[: len(whole) * share // 100], UNREADABLE
    for form in ("png", "gif", "bmp", "webp", "tiff"):
        whole = encode(noise(48, 7), form)
        yield f"cut.{form}", whole[: len(whole) // 2], UNREADABLE
    for suffix in ("jpg", "png", "gif", "webp", "bmp"):
        yield f"empty.{suffix}", b"", UNREADABLE
    texts = (
        b"I am not a picture",
        b"<html>404</html>",
        "\u00e9t\u00e9\n".encode() * 500,
        b"\0" * 64,
    )
    for i, text in enumerate(texts):
        yield f"text_{i}.jpg", text, UNREADABLE
    yield "magic_only.jpg", b"\xff\xd8\xff\xe0", UNREADABLE
    yield "magic_only.png", b"\x89PNG\r\n\x1a\n", UNREADABLE
    yield "dangling.jpg", lambda path: path.symlink_to("nowhere.jpg"), UNREADABLE
    yield "dangling.png", lambda path: path.symlink_to("/no/such/folder/x.png"), UNREADABLE
    yield "circle.jpg", lambda path: path.symlink_to(path.name), UNREADABLE
    yield "folder.jpg", lambda path: path.mkdir(), UNREADABLE
    blue = Image.new("RGB", (6, 4), BLUE)
    for form in ("png", "bmp", "tiff"):

        def forbidden(path: Path, form: str = form) -> None:
            path.write_bytes(encode(blue, form))
            path.chmod(0)

        yield f"forbidden.{form}", forbidden, UNREADABLE


def turned() -> Entries:
    """16: all EXIF orientations, as JPEG and as PNG."""
    for tag, order in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        size = (32, 64) if tag > 4 else (64, 32)
        stored = quarters(size, [CORNERS[i] for i in order])
        result = Expected(True, (64, 32), CORNERS, 6)
        jpeg = encode(stored, "jpeg", exif=exif, quality=100, subsampling=0)
        yield f"turned_{tag}.jpg", jpeg, result
        yield f"turned_{tag}.png", encode(stored, "png", exif=exif), result


def quarters(size: tuple[int, int], colours: list[Colour]) -> Image.Image:
    """A picture of four quarters, coloured clockwise from the top left."""
    width, height = size
    image = Image.new("RGB", size)
    places = ((0, 0), (width // 2, 0), (width // 2, height // 2), (0, height // 2))
    for (left, top), colour in zip(places, colours, strict=True):
        image.paste(colour, (left, top, left + width // 2, top + height // 2))
    return image


def printed() -> Entries:
    """12: CMYK as Photoshop writes it into JPEG (inverted, with Adobe's marker), and as TIFF."""
    for name, (inks, colour) in INKS.items():
        image = Image.new("CMYK", (16, 16), inks)
        yield f"cmyk_{name}.jpg", encode(image, "jpeg", quality=100), plain((16, 16), colour, 3)
        yield f"cmyk_{name}.tiff", encode(image, "tiff"), plain((16, 16), colour)


def deep() -> Entries:
    """9: 16 bits a channel."""
    for value, grey in ((0, 0), (257 * 50, 50), (32896, 128), (65535, 255)):
        image = Image.fromarray(np.full((4, 6), value, np.uint16))
        yield f"grey16_{grey}.png", encode(image, "png"), plain((6, 4), (grey,) * 3)
    yield "grey16.tiff", encode(image, "tiff"), plain((6, 4), WHITE)
    for colour in (RED, GREEN, (10, 128, 200)):
        name = f"rgb16_{'_'.join(map(str, colour))}.png"
        yield name, png_16_bit((6, 4), colour), plain((6, 4), colour)
    yield "grey16.pgm", b"P5 2 2 65535\n" + (32896).to_bytes(2, "big") * 4, plain((2, 2), GREY)


def png_16_bit(size: tuple[int, int], colour: Colour) -> bytes:
    """PNG with 16 bits a channel, put together by hand: PIL writes none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    width, height = size
    row = b"\0" + b"".join(struct.pack(">H", value * 257) for value in colour) * width
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * height))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def transparent() -> Entries:
    """10: laid over white, whatever colour is hidden below."""
    for alpha, grey in ((0, 255), (128, 127), (255, 0)):
        glass = Image.new("RGBA", (5, 5), (0, 0, 0, alpha))
        yield f"glass_{alpha}.png", encode(glass, "png"), plain((5, 5), (grey,) * 3)
    yield (
        "glass.webp",
        encode(glass.point(lambda _: 0), "webp", lossless=True, exact=True),
        plain((5, 5), WHITE),
    )
    yield "glass_grey.png", encode(Image.new("LA", (5, 5), (0, 0)), "png"), plain((5, 5), WHITE)
    for index, colour in ((0, WHITE), (1, RED)):
        palette = Image.new("P", (4, 4), index)
        palette.putpalette([0, 0, 255, 255, 0, 0])
        for form in ("png", "gif"):
            content = encode(palette, form, transparency=0)
            yield f"palette_{index}.{form}", content, plain((4, 4), colour)
    key = Image.new("RGB", (4, 4), (1, 2, 3))
    yield "key.png", encode(key, "png", transparency=(1, 2, 3)), plain((4, 4), WHITE)


def shaped() -> Entries:
    """6: one pixel, and strips."""
    for form in ("png", "bmp", "gif"):
        yield f"pixel.{form}", encode(Image.new("RGB", (1, 1), RED), form), plain((1, 1), RED)
    wide, high = Image.new("RGB", (20_000, 10), GREEN), Image.new("RGB", (10, 20_000), BLUE)
    yield "strip.png", encode(wide, "png"), plain((20_000, 10), GREEN)
    yield "strip.jpg", encode(wide, "jpeg", quality=100), plain((20_000, 10), GREEN, 3)
    yield "tower.png", encode(high, "png"), plain((10, 20_000), BLUE)


def named() -> Entries:
    """9: names that are not ASCII, not one line, not UTF-8."""
    content = encode(Image.new("RGB", (3, 2), YELLOW), "png")
    names = (
        "\u00fcber stra\u00dfe.png",
        "\u732b.png",
        "\U0001f408.png",
        "two\nlines.png",
        'it\'s "quoted".png',
        "a,b;c=d.png",
        "$HOME `ls` %s {x}.png",
        "x" * 240 + ".png",
        os.fsdecode(b"latin-\xe9.png"),
    )
    for name in names:
        yield name, content, plain((3, 2), YELLOW)


def formats() -> Entries:
    """7: what else is found in folders of pictures, some with the wrong suffix."""
    red, blue = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    film = {"save_all": True, "append_images": [blue]}
    yield "film.gif", encode(red, "gif", **film), plain((8, 8), RED)
    yield "film.webp", encode(red, "webp", lossless=True, **film), plain((8, 8), RED)
    yield "pages.tiff", encode(red, "tiff", **film), plain((8, 8), RED)
    yield "one_bit.png", encode(Image.new("1", (8, 8), 1), "png"), plain((8, 8), WHITE)
    yield "grey.jpg", encode(Image.new("L", (8, 8), 77), "jpeg"), plain((8, 8), (77,) * 3)
    yield "a_png.jpg", encode(red, "png"), plain((8, 8), RED)
    yield "a_jpeg.png", encode(blue, "jpeg", quality=100), plain((8, 8), BLUE, 3)


def floats() -> Entries:
    """3: TIFF of floats: of [0, 1], of [0, 255], of anything."""
    for name, left, right, ours in (
        ("unit", 0.0, 1.0, (BLACK, WHITE)),
        ("bytes", 128.0, 255.0, (GREY, WHITE)),
        ("any", -5.0, 3000.0, (BLACK, WHITE)),
    ):
        image = Image.fromarray(np.array([[left, right]] * 2, np.float32))
        corners = (ours[0], ours[1], ours[1], ours[0])
        yield f"float_{name}.tiff", encode(image, "tiff"), Expected(True, (2, 2), corners)
