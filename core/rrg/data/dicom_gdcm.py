"""A program of its own that decodes one compressed frame by GDCM, which broken JPEG Lossless and JPEG-LS can crash.

Standard input: one line of JSON, [transfer syntax, options of pydicom's decoder]; then the frame. Standard output: its
words, without anything before or after. Not by pydicom's plug-in, which refuses the 12 bits of JPEG Extended.
"""

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SECONDS = 60


def decode_apart(syntax: str, frame: bytes, options: dict[str, Any]) -> "np.ndarray":
    """The words of a frame, (height width) or (height width colours) uint8 or uint16.

    Raises ValueError where GDCM cannot decode the frame, crashes, or takes more than a minute.
    """
    import numpy as np  # not at the top: the program does without

    request = json.dumps([syntax, options]).encode() + b"\n" + frame
    shape = options["rows"], options["columns"], options["samples_per_pixel"]
    try:
        # -P: the modules beside this one are not to stand in for others of their names.
        done = subprocess.run([sys.executable, "-P", __file__], input=request, capture_output=True, timeout=SECONDS)
        words = np.frombuffer(done.stdout, f"<u{options['bits_allocated'] // 8}").reshape(shape)
    except (ValueError, subprocess.TimeoutExpired):
        raise ValueError("GDCM cannot decode its pixels") from None
    return words[..., 0] if shape[2] == 1 else words


def main() -> None:
    import gdcm  # type: ignore[import-untyped]

    syntax, options = json.loads(sys.stdin.buffer.readline())
    rows, columns, samples, bits = (options[key] for key in ("rows", "columns", "samples_per_pixel", "bits_stored"))
    if bits in (6, 7) and syntax.startswith("1.2.840.10008.1.2.4.8"):
        raise ValueError("GDCM gives other values for JPEG-LS of 6 and 7 bits")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(sys.stdin.buffer.read())
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(options["photometric_interpretation"])
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if samples > 1:
        image.SetPlanarConfiguration(0)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    signed = options["pixel_representation"]
    image.SetPixelFormat(gdcm.PixelFormat(samples, options["bits_allocated"], bits, bits - 1, signed))
    sys.stdout.buffer.write(image.GetBuffer().encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    main()
