"""A drawn person that MediaPipe takes for one, so that no photo of anybody is needed."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 480, 640
JOINTS = {  # the person's left is on the right
    "left_shoulder": (292, 187), "right_shoulder": (190, 187),
    "left_elbow": (315, 265), "right_elbow": (165, 265),
    "left_wrist": (330, 328), "right_wrist": (150, 328),
    "left_hip": (266, 343), "right_hip": (214, 343),
    "left_knee": (268, 450), "right_knee": (212, 450),
    "left_ankle": (270, 545), "right_ankle": (210, 545),
    "nose": (240, 122), "neck": (240, 165), "head_top": (240, 60),
}  # fmt: skip

SKIN, SHIRT, TROUSERS, HAIR = (224, 172, 140), (60, 90, 160), (50, 50, 60), (60, 40, 30)


def draw_person() -> Image.Image:
    """Return a 480 x 640 picture of somebody standing upright, facing the camera."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (176, 190, 200))
    pen = ImageDraw.Draw(image)
    pen.rectangle([0, 520, WIDTH, HEIGHT], fill=(120, 110, 100))

    def limb(a, b, width, colour):
        pen.line([a, b], fill=colour, width=width)
        for x, y in (a, b):
            pen.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=colour)

    for x_hip, x_knee, x_foot in ((218, 212, 210), (262, 268, 270)):
        limb((x_hip, 340), (x_knee, 450), 46, TROUSERS)
        limb((x_knee, 450), (x_foot, 560), 34, TROUSERS)
        pen.ellipse([x_foot - 24, 550, x_foot + 24, 580], fill=(30, 30, 30))
    for x_shoulder, x_elbow, x_wrist in ((190, 165, 150), (290, 315, 330)):
        limb((x_shoulder, 185), (x_elbow, 265), 30, SHIRT)
        limb((x_elbow, 265), (x_wrist, 335), 24, SKIN)
        pen.ellipse([x_wrist - 14, 330, x_wrist + 14, 372], fill=SKIN)
    pen.polygon([(180, 170), (300, 170), (285, 345), (195, 345)], fill=SHIRT)
    pen.ellipse([178, 160, 302, 200], fill=SHIRT)
    pen.rectangle([226, 135, 254, 172], fill=(205, 155, 125))
    pen.ellipse([200, 58, 280, 160], fill=HAIR)
    pen.ellipse([206, 72, 274, 158], fill=SKIN)
    for x in (226, 254):
        pen.ellipse([x - 8, 104, x + 8, 114], fill=(250, 250, 250))
        pen.ellipse([x - 4, 104, x + 4, 113], fill=(50, 30, 20))
        pen.line([x - 11, 96, x + 11, 96], fill=HAIR, width=4)
    pen.polygon([(240, 108), (233, 130), (247, 130)], fill=(205, 150, 120))
    pen.line([228, 142, 252, 142], fill=(160, 70, 70), width=5)
    pen.ellipse([200, 100, 208, 122], fill=SKIN)
    pen.ellipse([272, 100, 280, 122], fill=SKIN)

    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), float)
    pixels = pixels * (0.85 + 0.3 * np.arange(WIDTH) / WIDTH)[:, None]
    pixels = pixels + np.random.default_rng(0).normal(0, 4, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
