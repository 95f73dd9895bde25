"""A program of its own that decodes one compressed frame by GDCM, which broken JPEG Lossless and JPEG-LS can crash.

Standard input: one line of JSON, [transfer syntax, options of pydicom's decoder]; then the encapsulated frame. Standard
output: one line of JSON, [type, shape, photometric interpretation]; then the array.
"""

import json
import subprocess
import sys
from typing import Any

import numpy as np

SECONDS = 60


def decode_apart(syntax: str, source: bytes, options: dict[str, Any]) -> tuple[np.ndarray, str]:
    """The array that pydicom's decoder gives, and its photometric interpretation.

    Raises ValueError where GDCM cannot decode the frame, crashes, or takes more than a minute.
    """
    request = json.dumps([syntax, options]).encode() + b"\n" + source
    try:
        # -P: the modules beside this one are not to stand in for others of their names.
        done = subprocess.run([sys.executable, "-P", __file__], input=request, capture_output=True, timeout=SECONDS)
        head, _, content = done.stdout.partition(b"\n")
        kind, shape, photometric = json.loads(head)
        return np.frombuffer(content, kind).reshape(shape), photometric
    except (ValueError, subprocess.TimeoutExpired):
        raise ValueError("GDCM cannot decode its pixels") from None


def main() -> None:
    from pydicom.pixels.decoders.base import get_decoder

    syntax, options = json.loads(sys.stdin.buffer.readline())
    array, found = get_decoder(syntax).as_array(
        sys.stdin.buffer.read(), index=0, raw=True, decoding_plugin="gdcm", **options
    )
    head = json.dumps([array.dtype.str, array.shape, str(found["photometric_interpretation"])])
    sys.stdout.buffer.write(head.encode() + b"\n" + array.tobytes())


if __name__ == "__main__":
    main()
