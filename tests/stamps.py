"""Made-up stamps in the folders of Tux Paint: a disc of one colour on a transparent square for each."""

from pathlib import Path

import numpy as np
from PIL import Image

from dsenv.tasks.scenes import TOPICS


def stamp_colour(topic: int, number: int) -> tuple[int, int, int]:
    """The colour of a stamp; no two stamps have the same, and no other pixel is so green."""
    return 10 * topic, 255, 10 * number


def write_stamps(folder: Path, each: int = 4, side: int = 24) -> Path:
    """Write `each` stamps of every topic, and what is to be left out: a cartoon, a copy, a full square."""
    down, across = np.mgrid[:side, :side] - (side - 1) / 2
    inside = down**2 + across**2 <= (side / 2) ** 2
    for topic, place in enumerate(TOPICS.values()):
        (folder / place / "cartoon").mkdir(parents=True)
        for number in range(each):
            image = np.zeros((side, side, 4), np.uint8)
            image[inside] = (*stamp_colour(topic, number), 255)
            Image.fromarray(image).save(folder / place / f"{number}.png")

        odd = Image.new("RGBA", (side, side), (255, 0, 255, 255))
        for name in ("cartoon/odd", "odd_mirror", "square"):
            odd.save(folder / place / f"{name}.png")
    return folder
