"""Files with more than Pillow keeps: every band and every bit of them, from a path, bytes and a cell of a data set."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from hfvision import reporting
from hfvision.data.image_sizes import size_of_cell
from hfvision.errors import ImageReadError
from hfvision.processing import rasters, reading
from hfvision.processing.reading import image_size, open_image, read_image

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

RNG = np.random.default_rng(0)
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
LIMITS = {"uint8": (0, 256), "int8": (-128, 128), "int16": (-(2**15), 2**15), "uint16": (0, 2**16)}
HEIGHT, WIDTH = 6, 7


@pytest.fixture(autouse=True)
def say_everything_again():
    reporting.forget()


def numbers(dtype, bands):
    """(C, H, W), through the whole range of the dtype."""
    shape = (bands, HEIGHT, WIDTH)
    if dtype.startswith("float"):
        return RNG.normal(0, 1000, shape).astype(dtype)
    low, high = LIMITS.get(dtype, (0, 2**32) if dtype == "uint32" else (-(2**31), 2**31))
    return RNG.integers(low, high, shape).astype(dtype)


def write(path, pixels, **options):
    profile = {"height": pixels.shape[1], "width": pixels.shape[2], "count": len(pixels), "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", **profile, **options) as file:
        file.write(pixels)
    return path


def as_read(pixels):
    return np.moveaxis(pixels, 0, 2)[..., 0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_band_and_bit_of_a_tiff_is_read(dtype, bands, tmp_path):
    pixels = numbers(dtype, bands)
    path = write(tmp_path / "image.tif", pixels)
    for source in (path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": "gone.tif"}):
        image = np.asarray(read_image(source))
        np.testing.assert_array_equal(image, as_read(pixels))
        assert image_size(source) == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "lzw", "predictor": 2},
        {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16},
        {"interleave": "band"},
        {"photometric": "RGB"},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_600_000)},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_layout_of_a_tiff_is_read(dtype, options, tmp_path):
    pixels = numbers(dtype, 4)
    path = write(tmp_path / "image.tif", pixels, **options)
    np.testing.assert_array_equal(np.asarray(read_image(path)), as_read(pixels))
    assert image_size(path) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", ["file", "no alpha", "alpha"])
def test_a_file_says_which_of_its_bands_are_no_colours(kind, tmp_path):
    options = {"file": {}, "no alpha": {"photometric": "RGB"}, "alpha": {"photometric": "RGB", "alpha": "yes"}}[kind]
    opened = open_image(write(tmp_path / "image.tif", numbers("uint16", 4), **options))
    expected = {"file": (True, 0, False), "no alpha": (True, 1, False), "alpha": (True, 1, True)}[kind]
    assert (opened.is_channels_last, opened.spare, opened.is_alpha) == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rasters_are_turned_upright_as_pictures_are(orientation, tmp_path):
    deep, plain = numbers("uint16", 3), numbers("uint8", 3)
    for pixels in (deep, plain):
        path = write(tmp_path / f"{pixels.dtype}.tif", pixels, photometric="RGB")
        content = bytearray(path.read_bytes())
        _set_orientation(content, orientation)
        path.write_bytes(content)
    turned = read_image(tmp_path / "uint8.tif")
    places = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.int32).reshape(HEIGHT, WIDTH))
    how = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    places = np.asarray(places if how is None else places.transpose(how))
    for name, pixels, read in (("uint8", plain, turned), ("uint16", deep, read_image(tmp_path / "uint16.tif"))):
        np.testing.assert_array_equal(np.asarray(read), as_read(pixels).reshape(-1, 3)[places])
        assert image_size(tmp_path / f"{name}.tif") == places.shape


def _set_orientation(content, orientation):
    """Turn the tag that says how planes lie (of no consequence here: one strip, chunky) into one of orientation."""
    (place,) = struct.unpack("<I", content[4:8])
    (count,) = struct.unpack("<H", content[place : place + 2])
    for at in range(place + 2, place + 2 + 12 * count, 12):
        if struct.unpack("<H", content[at : at + 2])[0] == 284:
            content[at : at + 12] = struct.pack("<HHIHH", 274, 3, 1, orientation, 0)


def test_a_png_of_16_bits_keeps_them(tmp_path):
    pixels = numbers("uint16", 3)
    path = tmp_path / "image.png"
    profile = {"height": HEIGHT, "width": WIDTH, "count": 3, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="PNG", **profile) as file:
        file.write(pixels)
    np.testing.assert_array_equal(read_image(path), as_read(pixels))
    np.testing.assert_array_equal(read_image(path.read_bytes()), as_read(pixels))
    assert image_size(path) == (HEIGHT, WIDTH)


def test_a_virtual_raster_is_read(tmp_path):
    pixels = numbers("int16", 2)
    write(tmp_path / "image.tif", pixels)
    path = tmp_path / "image.vrt"
    bands = "".join(
        f'<VRTRasterBand dataType="Int16" band="{band}"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">image.tif</SourceFilename><SourceBand>{band}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for band in (1, 2)
    )
    path.write_text(f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}">{bands}</VRTDataset>')
    np.testing.assert_array_equal(read_image(path), as_read(pixels))
    assert image_size(path) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 3), (5, 6, 7)])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", "bool"])
def test_a_numpy_file_gives_its_array(shape, dtype, tmp_path):
    array = RNG.integers(0, 2, shape).astype(dtype)
    np.save(tmp_path / "image.npy", array)
    for source in (tmp_path / "image.npy", (tmp_path / "image.npy").read_bytes()):
        read = read_image(source)
        np.testing.assert_array_equal(read, array)
        assert read.dtype == array.dtype
        assert image_size(source) == ((6, 7) if len(shape) == 2 else None)


def test_a_numpy_file_of_python_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / "image.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    with pytest.raises(ImageReadError, match=r"image\.npy is a NumPy file that cannot be read: Object arrays"):
        read_image(tmp_path / "image.npy")


def test_smaller_copies_in_a_tiff_are_no_pages(tmp_path, caplog):
    path = write(tmp_path / "image.tif", numbers("uint8", 3).repeat(40, 1).repeat(40, 2), photometric="RGB")
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    read_image(path)
    assert caplog.text == ""
    Image.new("L", (3, 3)).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.new("L", (4, 4))])
    assert read_image(tmp_path / "pages.tif").size == (3, 3)
    assert "has several frames or pages: the first is taken" in caplog.text


def test_without_rasterio_what_pillow_would_change_is_refused_or_reported(tmp_path, monkeypatch, caplog):
    for module in (rasters, reading):
        monkeypatch.setattr(module, "has_rasterio", lambda: False)
    for dtype, bands in (("float32", 3), ("int8", 1), ("uint32", 1), ("uint8", 2), ("uint8", 5)):
        path = write(tmp_path / "image.tif", numbers(dtype, bands))
        with pytest.raises(ImageReadError, match=rf"of {bands} bands?.* which Pillow cannot give: .*hfvision\[geo\]"):
            read_image(path)
    deep = numbers("uint16", 3)
    path = write(tmp_path / "image.tif", deep, photometric="RGB")
    np.testing.assert_array_equal(np.asarray(read_image(path)), as_read(deep) >> 8)
    assert "a TIFF of 3 bands of 16-bit whole numbers, of which Pillow keeps 3 bands of 8 bits" in caplog.text


def test_a_damaged_raster_is_one_error(tmp_path):
    content = write(tmp_path / "image.tif", numbers("uint16", 5), compress="deflate").read_bytes()
    for cut in (len(content) // 2, 40, 9):
        (tmp_path / "cut.tif").write_bytes(content[:cut])
        with pytest.raises(ImageReadError, match=r"cut\.tif"):
            read_image(tmp_path / "cut.tif")


def test_a_raster_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "image.tif", numbers("uint16", 5))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 41)
    with pytest.raises(ImageReadError, match=r"the header describes 42 pixels, more than PIL.Image.MAX_IMAGE_PIXELS"):
        read_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "deep TIFF", "NumPy"])
def test_the_size_of_a_cell_is_that_of_its_image(kind):
    import datasets

    file = io.BytesIO()
    if kind == "deep TIFF":
        with rasterio.MemoryFile() as memory:
            profile = {"height": HEIGHT, "width": WIDTH, "count": 5, "dtype": "uint16"}
            with memory.open(driver="GTiff", **profile) as opened:
                opened.write(numbers("uint16", 5))
            memory.seek(0)
            file.write(memory.read())
    elif kind == "NumPy":
        np.save(file, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    else:
        Image.new("RGB", (WIDTH, HEIGHT)).save(file, kind)
    assert size_of_cell({"bytes": file.getvalue(), "path": None}, datasets.Image()) == (HEIGHT, WIDTH)


def test_processors_take_the_bands_of_a_file_that_they_want(tmp_path, caplog):
    import hfvision

    deep = numbers("uint16", 4)
    deep[3, 0, 0] = 7  # not opaque everywhere
    for name, options, said in (
        ("alpha.tif", {"photometric": "RGB", "alpha": "yes"}, "Alpha channels were dropped"),
        ("spare.tif", {"photometric": "RGB"}, "Images have more bands than this processor takes"),
    ):
        path = write(tmp_path / name, deep, **options)
        colors = hfvision.ViTImageProcessor(size={"height": 4, "width": 4})
        want = colors(images=as_read(deep[:3]), return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(colors(images=path, return_tensors="np")["pixel_values"], want)
        assert said in caplog.text
        bands = hfvision.ViTImageProcessor(size={"height": 4, "width": 4}, image_mean=[0.5] * 4, image_std=[0.5] * 4)
        want = bands(images=as_read(deep), return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(bands(images=path, return_tensors="np")["pixel_values"], want)


def test_the_layout_of_a_file_with_bands_is_known_whatever_its_shape(tmp_path):
    import hfvision

    many = numbers("float32", 6)  # six bands of six rows: an array would have to say which are which
    path = write(tmp_path / "image.tif", many)
    process = hfvision.ViTImageProcessor(do_rescale=False, do_resize=False, image_mean=[0.0] * 6, image_std=[1.0] * 6)
    for options in ({}, {"input_data_format": "channels_first"}):
        np.testing.assert_array_equal(process(images=path, return_tensors="np", **options)["pixel_values"][0], many)


def test_a_deep_color_file_becomes_grey_where_one_channel_is_wanted(tmp_path, caplog):
    import hfvision

    deep = (numbers("uint8", 3).astype(np.uint16)) * 257
    path = write(tmp_path / "image.tif", deep, photometric="RGB")
    process = hfvision.ViTImageProcessor(size={"height": 4, "width": 4}, image_mean=[0.5], image_std=[0.5])
    want = process(images=Image.fromarray((as_read(deep) // 257).astype(np.uint8)), return_tensors="np")["pixel_values"]
    got = process(images=path, return_tensors="np")["pixel_values"]
    assert np.abs(got - want).max() < 2 / 255  # Pillow rounds grey to 8 bits
    assert "Colour images were converted to grey" in caplog.text
