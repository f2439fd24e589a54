"""A small entity-relationship diagram: layered boxes, parents to the left. Same input, same bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from html import escape

__all__ = ["Box", "draw"]

_WIDTH, _LINE, _GAP_X, _GAP_Y, _MARGIN, _SHOWN = 230, 18, 90, 26, 16, 10
_FILL = {"pk": "#fdf0c4", "fk": "#dde8f7", "time": "#dff2e1", "": "#eef0f3"}


@dataclasses.dataclass(frozen=True)
class Box:
    """One table of the diagram.

    Attributes:
        rows: number of rows.
        columns: type of each column, in order.
        primary_key: name, or None.
        time_column: name, or None.
        foreign_keys: parent table of each key column.
    """

    rows: int
    columns: Mapping[str, str]
    primary_key: str | None
    time_column: str | None
    foreign_keys: Mapping[str, str]

    def role(self, column: str) -> str:
        """What a column is: pk, fk, time or a feature ("")."""
        if column == self.primary_key:
            return "pk"
        return "fk" if column in self.foreign_keys else "time" if column == self.time_column else ""


def draw(boxes: Mapping[str, Box]) -> str:
    """Draw tables and their foreign keys as SVG.

    Args:
        boxes: by table name, parents before children.

    Returns:
        The text of an SVG file. A table shows its keys, its time and its first feature columns.
    """
    layer: dict[str, int] = {}
    for name, box in boxes.items():
        layer[name] = 1 + max((layer.get(parent, -1) for parent in box.foreign_keys.values() if parent != name), default=-1)
    shown = {name: _lines(box) for name, box in boxes.items()}
    place: dict[str, tuple[int, int]] = {}
    bottom = [_MARGIN] * (max(layer.values(), default=0) + 1)
    for name in boxes:
        place[name] = (_MARGIN + layer[name] * (_WIDTH + _GAP_X), bottom[layer[name]])
        bottom[layer[name]] += _LINE * (len(shown[name]) + 1) + _GAP_Y
    width, height = 2 * _MARGIN + len(bottom) * (_WIDTH + _GAP_X) - _GAP_X, max(bottom)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="Helvetica, Arial, sans-serif" font-size="11">'
    ]
    for name, box in boxes.items():
        x, y = place[name]
        for i, (column, _) in enumerate(shown[name]):
            if column in box.foreign_keys:
                out.append(_edge(x, y + _LINE * (i + 1) + _LINE // 2, place[box.foreign_keys[column]], box.foreign_keys[column] == name))
    for name, box in boxes.items():
        x, y = place[name]
        out.append(f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_LINE}" fill="#4b6a9b"/>')
        out.append(_text(x, y, name, f"{box.rows:,} rows", "#ffffff", bold=True))
        for i, (column, kind) in enumerate(shown[name], start=1):
            out.append(f'<rect x="{x}" y="{y + i * _LINE}" width="{_WIDTH}" height="{_LINE}" fill="{_FILL[box.role(column)]}"/>')
            role = box.role(column)
            out.append(_text(x, y + i * _LINE, column, f"{role.upper()} {kind}" if role in ("pk", "fk") else kind, "#222222"))
        out.append(f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_LINE * (len(shown[name]) + 1)}" fill="none" stroke="#b9c2d0"/>')
    return "\n".join([*out, "</svg>", ""])


def _lines(box: Box) -> list[tuple[str, str]]:
    """Columns to show with their types; the last line counts the rest."""
    keys = [(column, kind) for column, kind in box.columns.items() if box.role(column)]
    features = [(column, kind) for column, kind in box.columns.items() if not box.role(column)]
    rest = len(features) - _SHOWN
    return keys + (features if rest <= 1 else [*features[:_SHOWN], (f"… {rest} more", "")])


def _text(x: int, y: int, left: str, right: str, color: str, bold: bool = False) -> str:
    weight, base = ' font-weight="bold"' if bold else "", y + _LINE - 5
    return (
        f'<text x="{x + 6}" y="{base}" fill="{color}"{weight}>{escape(left)}</text>'
        f'<text x="{x + _WIDTH - 6}" y="{base}" fill="{color}" text-anchor="end" opacity="0.75">{escape(right)}</text>'
    )


def _edge(x: int, y: int, parent: tuple[int, int], to_itself: bool) -> str:
    """A curve from a key's line to the parent's head; a loop on the left where the parent is the table itself."""
    end_x, end_y = parent[0] + (0 if to_itself else _WIDTH), parent[1] + _LINE // 2
    bend = -30 if to_itself else _GAP_X // 2
    path = f"M{x} {y} C{x - abs(bend)} {y} {end_x + bend} {end_y} {end_x} {end_y}"
    return f'<path d="{path}" fill="none" stroke="#8a97aa" stroke-width="1.3"/><circle cx="{end_x}" cy="{end_y}" r="3" fill="#8a97aa"/>'
