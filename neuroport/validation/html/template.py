"""The pages' templates, filled in: everything is escaped but what is Markup already."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from neuroport.units import si


def filled(name: str, **values: Any) -> str:
    """A page of a template and its values."""
    style = Markup(_text("page.css"))
    return _environment().get_template(name).render(style=style, **values)


def inline(svg: str | None) -> Markup | None:
    """An SVG file as a part of a page."""
    return None if svg is None else Markup(svg[svg.index("<svg") :])


@cache
def _environment() -> Environment:
    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_text)
    )
    made.filters["percent"] = lambda x: f"{100 * x:.2f} %"
    made.filters["si"] = si
    return made


def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
