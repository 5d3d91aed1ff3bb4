"""The console that the command line writes to."""

from __future__ import annotations

from rich.console import Console

_WIDTH = 150  # where the output is no terminal


class PipedConsole(Console):
    """Rich's own answer to a closed pipe is exit code 1, which means something else here."""

    def on_broken_pipe(self) -> None:
        """Leave it to the command line."""
        raise BrokenPipeError

    def say(self, text: str) -> None:
        """A line as it is: no markup, no highlighting, wrapped by the terminal alone."""
        self.print(text, markup=False, highlight=False, soft_wrap=True)


def open_console() -> PipedConsole:
    """The console of standard output, as wide as the terminal, or as our widest table where there is none."""
    found = PipedConsole()
    return found if found.is_terminal else PipedConsole(width=_WIDTH)
