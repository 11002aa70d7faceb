"""How texts reach a terminal: in its letters, in one line, as a shell takes them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Sequence

from experiments.processes import interrupts


def complain(text: str) -> None:
    """Print to standard error, which may be full or closed, also where no memory is left."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        interrupts.drop_output(sys.stderr)
    except MemoryError:  # the text itself takes some
        with contextlib.suppress(OSError):
            os.write(2, b"error: there is not enough memory\n")


def printable(text: str) -> str:
    """Return a text without what moves a cursor; names of files and folders may hold anything.

    Newlines that are ours stay. Those in names, which come from the command line or are where we
    are, are written as a shell takes them.
    """
    with contextlib.suppress(FileNotFoundError):  # there is no current folder any more
        for word in (*sys.argv, os.environ.get("HOME", ""), os.getcwd()):
            for name in re.split("[/=]", word):
                if "\n" in name:
                    text = text.replace(name, name.replace("\n", "$'\\n'"))
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def in_shell(words: Sequence[str]) -> str:
    """Return words of a command line as a shell takes them, in one line.

    Where a word holds what cannot be printed, say a newline, it is written as $'...'.
    """
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    try:
        word.encode(sys.stdout.encoding or "utf-8")
        if word.isprintable():
            return shlex.quote(word)
    except UnicodeEncodeError:  # the letter is not one that the output has, or the name no UTF-8
        pass
    plain = {*range(32, 127)} - {*b"\\'"}
    letters = (chr(b) if b in plain else rf"\{b:03o}" for b in os.fsencode(word))
    return f"$'{''.join(letters)}'"
