"""A text and how far it has been read, with errors that name the place."""

from __future__ import annotations

import re

from scidiff.errors import UserError

MAX_TEXT = 1000  # characters of one expression

_CLOSES = {"(": ")", "[": "]"}


class Reader:
    """Reads one expression from left to right.

    Args:
        text: the expression.
        source: where it comes from, `--where` or a file; errors begin with it.

    Raises:
        UserError: the text is longer than 1,000 characters.
    """

    def __init__(self, text: str, source: str = "--where"):
        if len(text) > MAX_TEXT:
            raise UserError(f"{source}: expected at most {MAX_TEXT} characters, got {len(text)}")
        self.text = text
        self.source = source
        self.place = 0

    def skip(self) -> None:
        """Past blanks."""
        while self.place < len(self.text) and self.text[self.place].isspace():
            self.place += 1

    def take(self, pattern: re.Pattern[str]) -> str | None:
        """The text that the pattern matches here, read; None, with nothing read, if it matches none."""
        self.skip()
        found = pattern.match(self.text, self.place)
        if found is None or not found.group():
            return None
        self.place = found.end()
        return found.group()

    def literal(self, *choices: str) -> str | None:
        """The first of these that stands here, read; None, with nothing read, if none does."""
        self.skip()
        for choice in choices:
            if self.text.startswith(choice, self.place):
                self.place += len(choice)
                return choice
        return None

    def pattern(self, ends: str = "") -> str:
        """A SMILES or SMARTS, in quotes or bare: up to a blank, one of `ends`, or a bracket that it did not open."""
        quote = self.literal('"', "'")
        begin, closing = self.place, []
        while self.place < len(self.text):
            here = self.text[self.place]
            if here == quote or (quote is None and (here.isspace() or here in ends)):
                break
            if here in _CLOSES:
                closing.append(_CLOSES[here])
            elif here in ")]":
                if not closing and quote is None:
                    break
                if closing and closing[-1] == here:
                    closing.pop()
            self.place += 1
        found = self.text[begin : self.place]
        if quote is not None and self.literal(quote) is None:
            raise self.fail(f"a closing {quote}")
        return found

    def fail(self, expected: str, *, at: int | None = None, got: str | None = None) -> UserError:
        """The error that something else was expected here, or at another place."""
        self.skip()
        place = self.place if at is None else at
        rest = self.text[place:].split()
        seen = got if got is not None else (rest[0] if rest else "")
        what = repr(seen) if seen else "the end"
        return UserError(f"{self.source} {self.text!r}: expected {expected} at position {place + 1}, got {what}")
