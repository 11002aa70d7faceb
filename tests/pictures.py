"""What tests that look at no picture get in the place of one."""

import os
from typing import IO, Any

from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

save_picture = Figure.savefig


def save_words(figure: Figure, file: str | os.PathLike[str] | IO[bytes], **_: Any) -> None:
    """Write the artists of a figure, one a line: equal figures have equal words."""
    lines = []
    for axes in figure.axes:
        legend = axes.get_legend()
        texts = legend.get_texts() if legend else []
        # Without the axis lines, which make a tick for each look at them.
        lines += map(words_of, (a for a in axes.get_children() if not isinstance(a, Axis)))
        lines += [axes.get_xlabel(), axes.get_ylabel(), *(text.get_text() for text in texts)]
    of_figure = (*figure.texts, *(text for box in figure.legends for text in box.get_texts()))
    lines += [words_of(text) for text in of_figure]
    content = "\n".join(lines).encode()
    if isinstance(file, (str, os.PathLike)):
        with open(file, "wb") as opened:
            opened.write(content)
    else:
        file.write(content)


def words_of(artist: Artist) -> str:
    """Return what an artist shows, in words."""
    words = [type(artist).__name__, str(artist.get_label())]
    if isinstance(artist, Text):
        words.append(artist.get_text())
    if isinstance(artist, Line2D):
        words += [str(artist.get_color()), str(artist.get_linestyle())]
        words.append(str(artist.get_xydata().tolist()))
    return " ".join(words)


def write_words() -> None:
    """Have this process write words in the place of pictures, to its end."""
    Figure.savefig = save_words
