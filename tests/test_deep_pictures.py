"""Pictures of more than 8 bits a band, and grey ones of fewer: every number of the file, however Pillow shows it."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

import hfvision
from hfvision import reporting
from hfvision.errors import HfvisionError, ImageReadError
from hfvision.processing import rasters, reading
from hfvision.processing.label_reading import read_label_values, read_labels
from hfvision.processing.reading import image_size, is_deep_avif, open_image, read_image

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

HEIGHT, WIDTH = 6, 7
COLORS = {1: 0, 2: 4, 3: 2, 4: 6}  # bands -> type of color of a PNG
TWINS = {"LA": 2, "RGB": 3, "RGBA": 4}


@pytest.fixture(autouse=True)
def say_everything_again():
    reporting.forget()


def deep(bands, bits=16, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << bits, (HEIGHT, WIDTH, bands), dtype=np.uint16)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels, bits, color, before=b"", after=b""):
    """A PNG of (H, W, C) numbers of that many bits, with chunks before and after its pixels."""
    rows = []
    for row in pixels:
        digits = "".join(f"{int(number):0{bits}b}" for number in row.ravel())
        digits += "0" * (-len(digits) % 8)
        rows.append(b"\0" + bytes(int(digits[at : at + 8], 2) for at in range(0, len(digits), 8)))
    size = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, color, 0, 0, 0)
    body = chunk(b"IHDR", size) + before + chunk(b"IDAT", zlib.compress(b"".join(rows))) + after
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def deep_png(pixels, **chunks):
    return png(pixels, 16, COLORS[pixels.shape[2]], **chunks)


def jpeg2000(pixels, bits=16):
    with rasterio.MemoryFile() as memory:
        profile = {"height": HEIGHT, "width": WIDTH, "count": pixels.shape[2], "dtype": pixels.dtype}
        exact = {"QUALITY": 100, "REVERSIBLE": "YES", "NBITS": bits, "YCC": "NO", "RESOLUTIONS": 1}
        with memory.open(driver="JP2OpenJPEG", **profile, **exact) as file:
            file.write(pixels.transpose(2, 0, 1))
        memory.seek(0)
        return memory.read()


def pixmap(pixels, white, kind="P6", comment=""):
    """A PPM, or of one band a PGM."""
    head = f"{kind}\n{comment}{pixels.shape[1]} {pixels.shape[0]}\n{white}\n".encode()
    if kind in ("P2", "P3"):
        return head + " ".join(map(str, pixels.ravel().tolist())).encode()
    return head + pixels.astype(">u2" if white > 255 else np.uint8).tobytes()


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_a_png_of_16_bits_is_read_whole_with_its_alpha(bands, tmp_path):
    pixels = deep(bands)
    path = tmp_path / "image.png"
    path.write_bytes(deep_png(pixels))
    for source in (path, path.read_bytes(), {"bytes": path.read_bytes(), "path": None}):
        opened = open_image(source)
        np.testing.assert_array_equal(opened.image, pixels)
        assert opened.image.dtype == np.uint16
        assert (opened.spare, opened.is_alpha) == ((1, True) if bands != 3 else (0, False))
        assert image_size(source) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_png_of_16_bits_is_turned_upright_as_one_of_8(orientation, place):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    for bands in (2, 3, 4):
        pixels = deep(bands)
        plain = Image.open(io.BytesIO(png(pixels >> 8, 8, COLORS[bands], **{place: data})))
        upright = np.asarray(ImageOps.exif_transpose(plain))
        content = deep_png(pixels, **{place: data})
        np.testing.assert_array_equal(read_image(content) >> 8, upright)
        assert image_size(content) == upright.shape[:2]


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("bits", [9, 12, 15, 16])
def test_a_jpeg_2000_gives_the_numbers_that_it_stores(bits, bands, tmp_path):
    """Pillow multiplies grey ones up to 16 bits, and white of deep colors becomes black."""
    pixels = deep(bands, bits)
    pixels[0, 0] = (1 << bits) - 1
    content = jpeg2000(pixels, bits)
    np.testing.assert_array_equal(np.asarray(read_image(content)), pixels[..., 0] if bands == 1 else pixels)
    assert image_size(content) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_the_boxes_of_a_jpeg_2000_are_understood(mode):
    """As Pillow writes them around 8 bits: with the depth raised in the codestream alone, the header is a deep one."""
    file = io.BytesIO()
    Image.new(mode, (WIDTH, HEIGHT)).save(file, "JPEG2000")
    content = bytearray(file.getvalue())
    assert reading.header_of(io.BytesIO(content)) is None
    sizes = content.index(b"\xff\x4f\xff\x51") + 42
    for place in range(sizes, sizes + 3 * len(mode), 3):
        content[place] = 11  # 12 bits
    header = reading.header_of(io.BytesIO(content))
    assert header.size == (HEIGHT, WIDTH) and header.bits == (12,) * len(mode)
    assert (header.spare, header.has_alpha) == ((1, True) if "A" in mode else (0, False))
    assert str(header).startswith("a JPEG 2000 of ")


@pytest.mark.parametrize("kind", ["P6", "P3"])
@pytest.mark.parametrize("white", [65535, 1023, 256])
def test_a_deep_pixmap_keeps_its_levels(kind, white):
    """White is white: another largest number than 65,535 becomes that, as Pillow has it in grey."""
    pixels = np.minimum(deep(3), white).astype(np.uint16)
    pixels[0, 0], pixels[0, 1] = white, 0
    content = pixmap(pixels, white, kind, comment="# of a camera\n")
    expected = np.round(pixels.astype(np.float64) * 65535 / white)
    got = open_image(content)
    np.testing.assert_array_equal(got.image, expected)
    assert got.image.dtype == np.uint16 and image_size(content) == (HEIGHT, WIDTH)
    grey = np.asarray(read_image(pixmap(pixels[..., :1], white, {"P6": "P5", "P3": "P2"}[kind])))
    assert np.abs(grey - expected[..., 0]).max() <= 1


def test_a_deep_pixmap_that_is_damaged_is_one_error():
    content = pixmap(deep(3), 65535)
    for broken in (content[:-1], pixmap(deep(3) | 1024, 1023), pixmap(deep(3), 65535, "P3")[:-40] + b" x"):
        with pytest.raises(ImageReadError, match="a damaged"):
            read_image(broken)


def test_without_rasterio_what_is_lost_is_said_or_refused(monkeypatch, caplog):
    for module in (rasters, reading):
        monkeypatch.setattr(module, "has_rasterio", lambda: False)
    for bands, words in ((2, "2 bands of 16-bit whole numbers, of which Pillow keeps 2 bands"), (4, "keeps 4 bands")):
        reporting.forget()
        caplog.clear()
        pixels = deep(bands)
        read = read_image(deep_png(pixels)).convert("RGBA")
        np.testing.assert_array_equal(np.asarray(read)[..., -1], pixels[..., -1] >> 8)
        assert words in caplog.text and 'All of it is read with pip install "hfvision[geo]"' in caplog.text
    reporting.forget()
    np.testing.assert_array_equal(np.asarray(read_image(jpeg2000(deep(1, 12), 12))), deep(1, 12)[..., 0] << 4)
    assert (
        "a JPEG 2000 of 1 band of 12-bit whole numbers, of which Pillow keeps 1 band, multiplied by 16" in caplog.text
    )
    with pytest.raises(ImageReadError, match=r"3 bands of 12-bit whole numbers, which Pillow cannot give: .*geo"):
        read_image(jpeg2000(deep(3, 12), 12))
    np.testing.assert_array_equal(read_image(pixmap(deep(3), 65535)), deep(3))  # needs nothing


@pytest.mark.parametrize(
    ("wanted", "convert"), [*itertools.product([None, 1, 2, 3, 4], [None, False]), (None, True), (3, True)]
)
@pytest.mark.parametrize("mode", TWINS)
def test_a_processor_makes_the_same_of_16_bits_as_of_8(mode, wanted, convert):
    """The same picture in both: every level times 257. Bands, alpha, grey and refusals alike."""
    shallow = deep(TWINS[mode], 8).astype(np.uint8)
    statistics = {} if wanted is None else {"image_mean": [0.5] * wanted, "image_std": [0.5] * wanted}
    process = hfvision.ViTImageProcessor(
        do_resize=False, do_normalize=wanted is not None, do_convert_rgb=convert, **statistics
    )
    results = []
    for content in (png(shallow, 8, COLORS[TWINS[mode]]), deep_png(shallow.astype(np.uint16) * 257)):
        try:
            results.append(process(images=content, return_tensors="np")["pixel_values"][0])
        except HfvisionError as error:
            results.append(type(error))
    if isinstance(results[0], type) or isinstance(results[1], type):
        assert results[0] == results[1]
    else:
        assert results[0].shape == results[1].shape
        assert np.abs(results[0] - results[1]).max() <= (2 / 255 / 0.5 if wanted == 1 else 1e-6)  # Pillow rounds grey


def tiff(labels, bits, meaning):
    """A TIFF of one strip, written out: few tools write so few bits."""
    rows = []
    for row in labels:
        digits = "".join(f"{int(number):0{bits}b}" for number in row)
        digits += "0" * (-len(digits) % 8)
        rows.append(bytes(int(digits[at : at + 8], 2) for at in range(0, len(digits), 8)))
    strip = b"".join(rows)
    tags = {256: labels.shape[1], 257: labels.shape[0], 258: bits, 259: 1, 262: meaning, 277: 1, 278: labels.shape[0]}
    tags |= {273: 8, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + directory


@pytest.mark.parametrize("read", [read_labels, read_label_values])
def test_labels_are_the_numbers_that_the_file_stores(read, caplog):
    generator, cases = np.random.default_rng(1), []
    for bits in (1, 2, 4, 8):
        labels = generator.integers(0, 1 << bits, (HEIGHT, WIDTH), dtype=np.uint8)
        cases += [(png(labels, bits, 0), labels), (tiff(labels, bits, 1), labels), (tiff(labels, bits, 0), labels)]
    for white in (1, 3, 20, 150, 254, 255, 256, 1000, 65535):
        labels = generator.integers(0, white + 1, (HEIGHT, WIDTH))
        cases += [(pixmap(labels, white, kind), labels) for kind in ("P5", "P2")]
    for content, labels in cases:
        got = read(content)
        np.testing.assert_array_equal(got, labels)
    assert caplog.text.count("are read as the numbers in the files") == 1


def test_a_label_map_of_few_bits_is_turned_upright_and_keeps_its_numbers():
    exif = Image.Exif()
    exif[0x0112] = 6
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = png(labels, 4, 0, before=chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    np.testing.assert_array_equal(read_labels(content), np.rot90(labels, -1))
    assert image_size(content) == (4, 3)
    np.testing.assert_array_equal(np.asarray(read_image(content)), np.rot90(labels, -1) * 17)  # a picture's levels


def test_training_reads_masks_of_few_bits_as_they_are_stored(tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (number * 50, 0, 0)).save(tmp_path / split / "images" / f"{split}{number}.png")
            labels = np.random.default_rng(number).integers(0, 4, (8, 8), dtype=np.uint8)
            (tmp_path / split / "masks" / f"{split}{number}.png").write_bytes(png(labels, 4, 0))
    data = hfvision.prepare_segmentation(str(tmp_path), names=["a", "b", "c", "d"])
    _, labels = data.train.read(0)
    np.testing.assert_array_equal(labels, np.random.default_rng(0).integers(0, 4, (8, 8), dtype=np.uint8))


def test_a_deep_avif_is_known_by_its_settings():
    """10 and 12 bits, of which Pillow gives 8, and rasterio's wheels read none: that is said."""
    pytest.importorskip("PIL._avif")
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "AVIF")
    content = bytearray(file.getvalue())
    assert not is_deep_avif(io.BytesIO(content))
    content[content.index(b"av1C") + 6] |= 0x40
    opened = io.BytesIO(content)
    assert is_deep_avif(opened) and opened.tell() == 0
