"""Images from files, bytes and memory; where paths may lead."""

import io
import random
import struct
import warnings
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from lit_g2rpo.data.media.image_paths import image_sources
from lit_g2rpo.data.media.images import ImageError, image_size, load_image
from lit_g2rpo.errors import UserError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_bytes_and_images_give_what_the_file_gives(tmp_path: Path) -> None:
    noise = Image.effect_noise((20, 10), 90).convert("RGB")
    noise.save(tmp_path / "a.png")
    expected = load_image(tmp_path / "a.png").tobytes()
    assert expected == noise.tobytes()
    for source in (str(tmp_path / "a.png"), encoded(noise), noise):
        assert load_image(source).tobytes() == expected
        assert image_size(source) == (20, 10)
    assert load_image(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_an_option(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 10), "red")
    image.paste("blue", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    stored, turned = load_image(tmp_path / "a.jpg"), load_image(tmp_path / "a.jpg", exif_rotation=True)
    assert (stored.size, image_size(tmp_path / "a.jpg")) == ((30, 10), (30, 10))
    assert (turned.size, image_size(tmp_path / "a.jpg", True)) == ((10, 30), (10, 30))
    assert stored.getpixel((2, 5))[2] > 200
    assert turned.getpixel((5, 2))[2] > 200
    assert turned.getpixel((5, 27))[0] > 200


def test_the_size_is_read_without_decoding(tmp_path: Path) -> None:
    content = encoded(Image.effect_noise((400, 300), 90), "JPEG")
    assert image_size(content[:800]) == (400, 300)
    with pytest.raises(ImageError, match=r"image of 800 bytes: .*truncated"):
        load_image(content[:800])


@pytest.mark.parametrize("opened", [load_image, image_size])
def test_sources_that_are_no_image(tmp_path: Path, opened: object) -> None:
    thin = Image.new("L", (1000, 2))
    for source, message in {
        b"no image": r"^image of 8 bytes: no image that can be read \(PNG, JPEG, ",
        b"": "^image of 0 bytes: ",
        encoded(thin): "1000 x 2 pixels, but the sides may differ 200-fold",
        tmp_path / "none.png": "none.png: no such file",
    }.items():
        with pytest.raises(ImageError, match=message) as caught:
            opened(source)  # type: ignore[operator]
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="200-fold"):
        load_image(thin)


SAVED = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")


@pytest.mark.parametrize("kind", SAVED)
def test_a_broken_image_of_any_format_is_an_image_error(kind: str) -> None:
    noise = Image.effect_noise((60, 50), 90).convert("RGB")
    whole = encoded(noise, kind)
    assert load_image(whole).size == image_size(whole) == (60, 50)
    rng = random.Random(kind)
    broken = [whole[: len(whole) * part // 24] for part in range(24)]
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 8, 40))):
            content[rng.randrange(min(len(content), rng.choice((40, 400, 10**9))))] = rng.randrange(256)
        broken.append(bytes(content))
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in broken:
            for read in (load_image, image_size):
                try:
                    read(content)
                except ImageError as error:
                    said.append(str(error))
    assert len(said) > 20
    assert not any("\n" in message for message in said)


@pytest.mark.parametrize(
    "error", [SyntaxError("broken PNG"), struct.error("unpack"), TypeError("x"), ZeroDivisionError(), IndexError("i"),
              MemoryError(), EOFError(), KeyError("k"), RuntimeError("codec"), AssertionError()],
)  # fmt: skip
def test_whatever_a_decoder_raises_is_an_image_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(ImageError, match=r"^image of \d+ bytes: \S") as caught:
        load_image(encoded(Image.new("L", (5, 5))))
    assert "\n" not in str(caught.value)


def test_only_listed_formats_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("RGB", (20, 20), "red")
    for kind in ("ICO", "TGA", "PCX", "EPS", "SGI"):
        content = encoded(image, kind)
        for read in (load_image, image_size):
            with pytest.raises(ImageError, match="no image that can be read"):
                read(content)
        if kind != "EPS":
            with Image.open(io.BytesIO(content)) as opened, pytest.raises(ImageError, match=f"of format {kind}"):
                load_image(opened)


def test_bombs_and_images_without_pixels() -> None:
    content = bytearray(encoded(Image.new("L", (5, 5))))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    for read in (load_image, image_size):
        with pytest.raises(ImageError, match="decompression bomb"):
            read(bytes(content))
        for size in ((0, 5), (5, 0), (0, 0)):
            with pytest.raises(ImageError, match="has no pixels"):
                read(Image.new("L", size))
    content[16:24] = struct.pack(">II", 0, 5)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(ImageError):
        load_image(bytes(content))


def test_images_of_every_kind_of_pixels_are_read() -> None:
    red = Image.new("RGB", (20, 10), "red")
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    for content in (
        encoded(red.convert("CMYK"), "JPEG", quality=95), encoded(red.convert("P"), "PNG"),
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        encoded(red.convert("YCbCr"), "JPEG", quality=95), encoded(red, "TIFF", compression="tiff_lzw"),
    ):  # fmt: skip
        found = load_image(content)
        assert (found.mode, found.size) == ("RGB", (20, 10))
        red_of, green, blue = found.getpixel((10, 5))
        assert red_of > 230
        assert max(green, blue) < 40
    deep = load_image(encoded(Image.new("I;16", (4, 4), 65535), "PNG"))
    assert deep.getpixel((0, 0)) == (255, 255, 255)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "inner").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").write_bytes(b"x")
    (root / "a.png").write_bytes(b"x")
    (root / "inner" / "to_a.png").symlink_to("../a.png")
    (root / "out.png").symlink_to("../secret.png")
    (root / "out_folder").symlink_to("../elsewhere")
    (root / "loop.png").symlink_to("loop.png")
    (tmp_path / "images_too").mkdir()
    (tmp_path / "images_too" / "c.png").write_bytes(b"x")
    return root


def sources(root: Path, *images: object) -> list[object]:
    return list(image_sources({"images": list(images)}, root, "f.jsonl, line 3"))


def test_paths_inside_the_root(root: Path) -> None:
    a = root / "a.png"
    names = ("a.png", "./a.png", "inner/../a.png", str(a), "inner/to_a.png")
    assert sources(root, *names) == [a] * len(names)
    image = Image.new("L", (1, 1))
    assert sources(root, b"x", image) == [b"x", image]
    (root.parent / "link").symlink_to(root)
    assert sources(root.parent / "link", "a.png") == [a]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../secret.png", "lies outside data.image_root .*; use a path inside it"),
        ("../images_too/c.png", "lies outside"),
        ("/etc/passwd", "lies outside"),
        ("..", "lies outside"),
        (".", "lies outside"),
        ("out.png", "leads to .*secret.png, outside data.image_root"),
        ("out_folder/b.png", "lies outside"),
        ("inner", "no image file .*inner; check 'images' and data.image_root"),
        ("none.png", "no image file"),
        ("a.png/b.png", "no image file"),
        ("loop.png", "no image file"),
        ("a\0b.png", "is no path"),
        ("http://x.org/a.png", "is an address of the web; save it in data.image_root"),
    ],
)
def test_paths_that_are_refused(root: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^f.jsonl, line 3: .*{message}"):
        sources(root, name)
