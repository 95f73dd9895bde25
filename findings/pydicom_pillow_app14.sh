#!/usr/bin/env bash
# pydicom 3.0.2, Pillow 13.0.0: a colour JPEG Baseline frame with Adobe's APP14 marker (transform 1: YCbCr).
# Expected: raw=True gives YCbCr values, as PhotometricInterpretation says, and raw=False gives RGB, by any plug-in.
# Happens: the pillow plug-in returns values that Pillow has already turned into RGB, while the properties beside
# them still say YBR_FULL or YBR_FULL_422; raw=False turns them a second time, and a red film comes out green.
# The same picture with a JFIF marker, and the gdcm plug-in with either marker, are right. No warning is given.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check \
  pydicom==3.0.2 pillow==13.0.0 numpy==2.4.6 python-gdcm==3.2.6

"$tmp/venv/bin/python" -W error - <<'PY'
import io

import numpy as np
import PIL
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGBaseline8Bit

print("pydicom", pydicom.__version__, "Pillow", PIL.__version__)
APP14 = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"  # version 100, no flags, transform 1


def red_square(marker, subsampling):
    """A 16 x 16 red JPEG in YCbCr whose first segment is JFIF's or Adobe's."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(file, "JPEG", quality=95, subsampling=subsampling)
    jpeg = file.getvalue()
    assert jpeg[2:4] == b"\xff\xe0"  # JFIF's APP0, which Pillow writes
    if marker == "Adobe":
        jpeg = jpeg[:2] + APP14 + jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]
    image = Image.open(io.BytesIO(jpeg))
    assert ("adobe_transform" in image.info) == (marker == "Adobe")
    assert np.allclose(image.getpixel((8, 8)), (255, 0, 0), atol=2)  # Pillow itself reads either as red
    return jpeg


def dataset(jpeg, photometric):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.Rows = ds.Columns = 16
    ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 0
    ds.PhotometricInterpretation = photometric
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = encapsulate([jpeg])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


decoder = get_decoder(JPEGBaseline8Bit)
RED_YBR, RED_RGB = (76, 85, 255), (255, 0, 0)
for photometric, subsampling in (("YBR_FULL_422", "4:2:2"), ("YBR_FULL", "4:4:4")):
    for marker in ("JFIF", "Adobe"):
        ds = dataset(red_square(marker, subsampling), photometric)
        for plugin in ("gdcm", "pillow"):
            raw, said = decoder.as_array(ds, raw=True, decoding_plugin=plugin)
            rgb, said_rgb = decoder.as_array(ds, raw=False, decoding_plugin=plugin)
            said, said_rgb = said["photometric_interpretation"], said_rgb["photometric_interpretation"]
            raw, rgb = raw[8, 8].tolist(), rgb[8, 8].tolist()
            print(f"{marker:5} {plugin:6} raw=True {raw} said to be {said}; raw=False {rgb} said to be {said_rgb}")
            assert (said, said_rgb) == (photometric, "RGB")
            if (marker, plugin) == ("Adobe", "pillow"):
                assert np.allclose(raw, RED_RGB, atol=2)
                assert rgb[1] > 250 and rgb[0] < 80 and rgb[2] < 40  # green
            else:
                assert np.allclose(raw, RED_YBR, atol=2) and np.allclose(rgb, RED_RGB, atol=2)
PY
