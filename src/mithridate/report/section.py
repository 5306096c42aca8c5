"""What the page's sections are made of."""

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class PageFigure:
    """A drawing with its title and caption; `label` says in words what it shows."""

    title: str
    caption: str
    label: str
    svg: Markup


def as_markup(svg: str) -> Markup:
    """Return a drawing of this package as markup that the template does not escape."""
    return Markup(svg)
