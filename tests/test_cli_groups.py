"""Groups of options: one dataclass, options of its own on each command that has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from neuroport.cli.groups import grouped


@dataclass(frozen=True)
class Size:
    height: Annotated[int, typer.Option(help="Rows.", min=1)] = 4
    width: Annotated[int, typer.Option(help="Columns.", min=1)] = 5


def area(name: str, *, colour: str = "red", size: Size, loud: bool = False) -> None:
    """Say a rectangle."""
    typer.echo(f"{name} {colour} {size.height}x{size.width}{'!' if loud else ''}")


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer(rich_markup_mode=None)
    made.command()(grouped(area))
    return made


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["box"], "box red 4x5"),
        (["box", "--width", "7", "--loud"], "box red 4x7!"),
        (["--height", "2", "--colour", "blue", "box"], "box blue 2x5"),
    ],
)
def test_a_commands_group_is_made_of_its_options(app, arguments, expected):
    assert CliRunner().invoke(app, arguments).stdout == expected + "\n"


def test_help_has_them_where_the_group_stands(app):
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert "Say a rectangle." in shown and "Rows." in shown
    places = [shown.index(flag) for flag in ("--colour", "--height", "--width", "--loud")]
    assert places == sorted(places)


def test_their_checks_hold(app):
    result = CliRunner().invoke(app, ["box", "--width", "0"])
    assert result.exit_code == 2
    assert "--width" in result.output
