"""read_image: every source gives the same picture, upright; whatever is wrong with a file is one clear error."""

import base64
import contextlib
import gzip
import http.server
import io
import logging
import socket
import struct
import threading
import warnings
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hfvision import reporting
from hfvision.errors import HfvisionError, ImageReadError
from hfvision.processing.reading import read_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (23, 31, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def say_everything_again():
    reporting.forget()


def encoded(image=None, kind="PNG", **options):
    file = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(file, kind, **options)
    return file.getvalue()


def huge_png(width, height):
    """A valid header of any size, and hardly any data."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@contextlib.contextmanager
def serving(answers):
    """An HTTP server on this machine: {path: (status, content, headers)}; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, content, headers = answers[self.path]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_every_source_gives_the_same_picture(tmp_path):
    content = encoded()
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with serving({"/image.png": (200, content, {}), "/old": (302, b"", {"Location": "/image.png"})}) as address:
        remote = [read_image(f"{address}/image.png"), read_image(f"{address}/old", timeout=5)]
    text = base64.b64encode(content).decode()
    with path.open("rb") as opened:
        images = [
            *remote,
            read_image(path),
            read_image(str(path)),
            read_image(content),
            read_image(opened),
            read_image(f"data:image/png;base64,{text}"),
            read_image(text),
            read_image({"bytes": content, "path": None}),
            read_image({"bytes": None, "path": str(path)}),
        ]
    for image in images:
        assert isinstance(image, Image.Image)
        np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_a_cell_of_a_dataset_is_read(tmp_path):
    (tmp_path / "image.png").write_bytes(encoded())
    for value in (str(tmp_path / "image.png"), {"bytes": encoded(), "path": "elsewhere.png"}):
        rows = datasets.Dataset.from_dict({"image": [value]})
        cell = rows.cast_column("image", datasets.Image(decode=False))[0]["image"]
        assert set(cell) == {"bytes", "path"}
        np.testing.assert_array_equal(np.asarray(read_image(cell)), PIXELS)


def test_arrays_and_tensors_pass_through_untouched():
    tensor = torch.from_numpy(PIXELS)
    assert read_image(tensor) is tensor
    assert read_image(PIXELS) is PIXELS

    class Raster:  # as other libraries offer their arrays
        def __array__(self, dtype=None, copy=None):
            return PIXELS

    np.testing.assert_array_equal(read_image(Raster()), PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16", "I", "F", "CMYK"])
def test_files_keep_their_mode(mode, tmp_path):
    if mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(RNG.integers(0, 60_000, (9, 7)).astype(dtype))
    else:
        image = Image.fromarray(PIXELS).convert(mode)
    image.save(tmp_path / "image.tif")
    read = read_image(tmp_path / "image.tif")
    assert read.mode == mode
    np.testing.assert_array_equal(np.asarray(read), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation, tmp_path):
    """Each EXIF orientation undoes the turn that it stands for; files and PIL images alike."""
    undone = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what a camera did, as PIL.Image.Transpose
    upright = Image.fromarray(PIXELS)
    turned = upright if undone[orientation] is None else upright.transpose(Image.Transpose(undone[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "image.png", exif=exif)
    with Image.open(tmp_path / "image.png") as opened:
        for image in (read_image(tmp_path / "image.png"), read_image(opened)):
            np.testing.assert_array_equal(np.asarray(image), PIXELS)
            assert image.getexif().get(0x0112, 1) == 1  # so nobody turns it again


def test_the_first_frame_of_an_animation_is_taken_and_that_is_said_once(tmp_path, caplog):
    first, second = (Image.fromarray(PIXELS).convert("P"), Image.new("P", (31, 23)))
    first.save(tmp_path / "film.gif", save_all=True, append_images=[second])
    with caplog.at_level(logging.WARNING, logger="hfvision"):
        image = read_image(tmp_path / "film.gif")
        read_image(tmp_path / "film.gif")
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(first.convert("RGB")))
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'film.gif'} has several frames or pages: the first is taken."
    ]


BAD_FILES = {
    "empty.png": (b"", "empty (zero bytes)"),
    "text.png": (b"Dear reader,\nthis is no picture.\n", "it is text, beginning with 'Dear reader,"),
    "page.jpg": (b"<!DOCTYPE html><html>404", "it is text, beginning with '<!DOCTYPE html>"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    "array.png": (b"\x93NUMPY\x01\x00", "a NumPy file that cannot be read"),
    "packed.png": (gzip.compress(b"x"), "a gzip archive"),
    "paper.png": (b"%PDF-1.7", "a PDF document"),
    "scan.png": (b"\0" * 128 + b"DICM", "a DICOM file"),
    "zeros.png": (b"\0" * 500, "only zeros"),
    "noise.png": (b"\x01\x02\x03\x04\x05\x06\x07\xff\xfe", "of no format that Pillow knows (it begins with 01 02 03"),
    "truncated.png": (encoded()[:-200], "a damaged or truncated PNG of 31x23 pixels"),
    "truncated.jpg": (encoded(kind="JPEG")[:-100], "a damaged or truncated JPEG of 31x23 pixels"),
    "header.jpg": (encoded(kind="JPEG")[:400], "header"),
    "truncated.gif": (encoded(kind="GIF")[:300], "truncated"),
    "header.png": (encoded()[:20], "header"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_error_that_says_what_it_is(name, tmp_path):
    content, message = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    for source in (path, {"bytes": content, "path": str(path)}):
        with pytest.raises(ImageReadError) as raised:
            read_image(source)
        assert message in str(raised.value)
        assert str(path) in str(raised.value)
    assert isinstance(raised.value, OSError)
    assert isinstance(raised.value, HfvisionError)


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 10_000)])  # above twice Pillow's limit, and between
def test_a_decompression_bomb_is_refused_before_decoding_and_without_a_warning(size, tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(*size))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ImageReadError, match=f"{size[0] * size[1]:,} pixels, more than PIL.Image.MAX_IMAGE_PIXELS"):
            read_image(path)
    assert caught == []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 23 * 31)
    path.write_bytes(encoded())
    assert read_image(path).size == (31, 23)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 23 * 31 - 1)
    with pytest.raises(ImageReadError, match="713 pixels"):
        read_image(path)


def test_missing_files_folders_and_what_is_no_image(tmp_path):
    with pytest.raises(ImageReadError, match=r"there is no file .*missing\.png"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageReadError, match=r"nor is there a folder .*nowhere"):
        read_image(str(tmp_path / "nowhere" / "image.png"))
    with pytest.raises(ImageReadError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageReadError, match="cannot be opened"):
        read_image("a\0b.png")
    with pytest.raises(ImageReadError, match=r"^a{100}\.\.\. cannot be opened: File name too long$"):
        read_image("a" * 5000 + ".png")
    with pytest.raises(ImageReadError, match="a NoneType is not an image: None"):
        read_image(None)
    with pytest.raises(ImageReadError, match="this one has neither"):
        read_image({"bytes": None, "path": None})
    with pytest.raises(ImageReadError, match=r"this one has the keys \['pixels'\]"):
        read_image({"pixels": 3})
    with pytest.raises(ImageReadError, match="not a complete data address"):
        read_image("data:image/png;base64")


def test_a_lazy_pil_image_with_a_damaged_file_is_an_error_too(tmp_path):
    path = tmp_path / "half.png"
    path.write_bytes(encoded()[:-200])
    with Image.open(path) as image, pytest.raises(ImageReadError, match=r"half\.png is a damaged or truncated PNG"):
        read_image(image)


def test_what_goes_wrong_on_the_way_is_an_error_with_the_address():
    cut = (200, encoded()[:100], {"Content-Length": "5000"})
    page = (200, b"<html>please log in</html>", {})
    with serving({"/gone": (404, b"", {}), "/cut": cut, "/page": page}) as address:
        for path, message in {"/gone": "answered 404", "/cut": "bytes early", "/page": "it is text"}.items():
            with pytest.raises(ImageReadError, match=message) as raised:
                read_image(address + path)
            assert address + path in str(raised.value)
    with pytest.raises(ImageReadError, match="cannot be downloaded"):
        read_image(address + "/image.png")  # nobody listens any more
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/image.png"
        with pytest.raises(ImageReadError, match=r"no answer within timeout=0\.2 s"):
            read_image(address, timeout=0.2)


def test_no_file_stays_open(tmp_path):
    """An open file would be a ResourceWarning, which is an error here."""
    for name, content in {"good.png": encoded(), "bad.png": encoded()[:-200], "text.png": b"text"}.items():
        path = Path(tmp_path / name)
        path.write_bytes(content)
        with contextlib.suppress(ImageReadError):
            read_image(path)
        path.rename(tmp_path / f"moved-{name}")
