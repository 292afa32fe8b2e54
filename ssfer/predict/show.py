"""Show predictions and explanations as HTML in notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ssfer.core.images import data_uri

_ROWS = 20


def table_html(table: pd.DataFrame, thumbnails: Mapping[int, bytes]) -> str:
    """Return the first rows as HTML, with the face and one bar per class.

    Args:
        table: see `ssfer.predict.table`.
        thumbnails: index of a row -> JPEG of the face.
    """
    classes = [str(name) for name in table.columns if str(name).startswith("p_")]
    cells = []
    for i, row in enumerate(table.head(_ROWS).to_dict("records")):
        where = ", ".join(_places(row))
        face = f'<img src="{data_uri(thumbnails[i])}" width="64" alt="">' if i in thumbnails else ""
        said = row["expression"] if isinstance(row["expression"], str) else row["status"]
        bars = bars_html({name[2:]: row[name] for name in classes}) if pd.notna(row[classes[0]]) else ""
        cells.append(
            f"<tr><td>{face}</td><td>{html.escape(str(row['input']))}<br><small>{html.escape(where)}</small></td>"
            f"<td><b>{html.escape(str(said))}</b></td><td>{bars}</td></tr>"
        )
    left = len(table) - len(cells)
    more = f"<p>and {left:,} more rows</p>" if left > 0 else ""
    return f"<table>{''.join(cells)}</table>{more}<p>{len(table):,} rows × {len(table.columns)} columns</p>"


def bars_html(probs: Mapping[str, float]) -> str:
    """Return one bar per class, as a small HTML table."""
    bar = '<div style="background:#4c72b0;height:8px;width:{0:.0f}px"></div>'
    rows = (
        f'<tr style="background:none"><td style="padding:0 6px;font-size:smaller">{html.escape(name)}</td>'
        f'<td style="padding:0">{bar.format(100 * p)}</td><td style="padding:0 6px;font-size:smaller">{p:.2f}</td></tr>'
        for name, p in probs.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _places(row: Mapping[Any, Any]) -> list[str]:
    found = []
    for name, text in (("frame", "frame {:.0f}"), ("time", "{:.2f} s"), ("track", "track {:.0f}"), ("face", "face {}")):
        if pd.notna(row[name]):
            found.append(text.format(row[name]))
    return found
