"""Reading one integer from a .npy file of unknown origin, without unpickling and with bounded memory."""

from io import BytesIO

import numpy as np

MAX_BYTES = 4096


def read_integer(data: bytes) -> int:
    """Return the integer in a .npy file of one element, which may be text ("3"), an integer or a whole float.

    Raises:
        ValueError: not a .npy file, several elements, another type (an object would need unpickling), not an integer.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes are too many for one number")
    file = BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format is unknown")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = header(file)
    except Exception as error:  # NumPy's parser fails in any way on damaged text: TokenError, SyntaxError, ...
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from error
    # Checked before np.load, which sets memory aside for whatever the header claims.
    if dtype.kind not in "USiuf" or dtype.itemsize > MAX_BYTES or shape not in ((), (1,)):
        raise ValueError(f"an array of {shape} elements of type {dtype} is not one number")
    value = np.load(BytesIO(data), allow_pickle=False).reshape(())[()]
    if dtype.kind == "S":
        value = value.decode("ascii")
    number = float(value)
    if not number.is_integer():
        raise ValueError(f"{value} is not a whole number")
    return int(number)
