"""Pictures of kinds that few programs take, each with the way it is stored."""

import numpy as np
from PIL import Image

SIZE = (30, 20)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was held upright

ODD = {
    "one pixel.png": (Image.new("RGB", (1, 1), "red"), {}),
    "a strip.png": (Image.new("RGB", (1, 2000), "blue"), {}),
    "grey.png": (Image.new("L", SIZE, 90), {}),
    "grey with alpha.png": (Image.new("LA", SIZE, (9, 200)), {}),
    "sixteen bit.png": (Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), {}),
    "two colours.png": (Image.new("1", SIZE, 1), {}),
    "transparent.png": (Image.new("RGBA", SIZE, (9, 9, 9, 0)), {}),
    "transparent palette.gif": (Image.new("P", SIZE, 3), {"transparency": 3}),
    "inks.jpg": (Image.new("CMYK", SIZE, (9, 9, 9, 0)), {}),
    "turned.jpg": (Image.new("RGB", SIZE, "green"), {"exif": TURNED}),
    "animated.webp": (Image.new("RGB", SIZE, "red"), {"save_all": True, "append_images": [Image.new("RGB", SIZE, "blue")]}),
    "float.tiff": (Image.new("F", SIZE, 0.5), {}),
    "colours.bmp": (Image.new("RGB", SIZE, "green"), {}),
    "äpfel & birnen <b>.webp": (Image.new("RGB", SIZE, "green"), {}),
    "named wrongly.txt": (Image.new("RGB", SIZE, "green"), {"format": "PNG"}),
}
"""Name of the file -> the picture and the options of `Image.save`."""


def upright_size(name):
    """(width, height) of the picture as a person sees it."""
    picture, options = ODD[name]
    return picture.size[::-1] if "exif" in options else picture.size
