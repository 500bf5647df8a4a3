"""One self-contained HTML page: pictures inside, no scripts, no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from trimtab.engines.types import TokenReport

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
       padding: 0 1.2rem; color: #1c2330; background: #fff; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; }
th, td { padding: .35rem .9rem; border-bottom: 1px solid #ddd; }
td:not(:first-child), th:not(:first-child) { text-align: right; }
img { max-width: 44rem; width: 100%; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; }
.card { border: 1px solid #ddd; border-radius: .5rem; padding: .8rem 1rem; }
.card h3 { margin: 0 0 .4rem; font-size: .95rem; color: #2563a8; }
.text { white-space: pre-wrap; } .note { color: #666; font-size: .9rem; }
.scale { display: inline-block; width: 12rem; height: .8rem; border: 1px solid #ddd;
         background: linear-gradient(90deg, rgb(214,96,77), #fff, rgb(67,147,195)); }
code { background: #f3f4f6; padding: .1rem .3rem; border-radius: .2rem; }
"""

STRONGEST = 3.0  # nats at which the colour is full


def page(title: str, sections: Sequence[str]) -> str:
    """A whole page from its sections (HTML)."""
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def paragraph(text: str, *, note: bool = False) -> str:
    """A paragraph of plain text."""
    return f'<p class="note">{escape(text)}</p>' if note else f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(text)}</h2>"


def picture(path: Path, alt: str) -> str:
    """A PNG, put into the page itself."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def cards(answers: Mapping[str, str]) -> str:
    """Answers (HTML) side by side under their names."""
    boxes = "".join(
        f'<div class="card"><h3>{escape(name)}</h3><div class="text">{answer}</div></div>'
        for name, answer in answers.items()
    )
    return f'<div class="grid">{boxes}</div>'


def coloured_tokens(tokens: Sequence[TokenReport], weights: Mapping[str, float]) -> str:
    """An answer with every token coloured by how much more the ARMs like it than the base does.

    The colour is `Σ_i w_i (reward_i − logp_base) / Σ_i w_i` in nats, blue above zero and red below;
    all numbers are in the tooltip. With no weight the text stays uncoloured.
    """
    total = sum(weights.values())
    spans = []
    for token in tokens:
        pull = 0.0
        if total > 0:
            pull = sum(w * (token.rewards[n] - token.logp_base) for n, w in weights.items()) / total
        facts = [f"base {token.logp_base:.2f}"]
        facts += [f"{name} {token.rewards[name]:.2f}" for name in weights]
        facts.append(f"fused {token.logp_fused:.2f} (nats)")
        spans.append(
            f'<span style="background:{colour(pull)}" title="{escape(" · ".join(facts))}">'
            f"{escape(token.text)}</span>"
        )
    return "".join(spans)


def colour(nats: float) -> str:
    """Red below zero, white at zero, blue above; full at three nats."""
    share = max(-1.0, min(1.0, nats / STRONGEST))
    red, green, blue = (67, 147, 195) if share > 0 else (214, 96, 77)
    return f"rgba({red},{green},{blue},{abs(share):.2f})"
