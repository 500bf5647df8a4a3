"""One self-contained HTML page: pictures inside, no scripts, no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from math import exp
from pathlib import Path

from trimtab.engines.types import Alternative, TokenReport

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
       padding: 0 1.2rem; color: #1c2330; background: #fff; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; }
th, td { padding: .35rem .9rem; border-bottom: 1px solid #ddd; }
td:not(:first-child), th:not(:first-child) { text-align: right; }
.wide { overflow-x: auto; }
img { max-width: 44rem; width: 100%; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; }
.card { border: 1px solid #ddd; border-radius: .5rem; padding: .8rem 1rem; }
.card h3 { margin: 0 0 .4rem; font-size: .95rem; color: #2563a8; }
.text { white-space: pre-wrap; } .note { color: #666; font-size: .9rem; }
.scale { display: inline-block; width: 12rem; height: .8rem; border: 1px solid #ddd;
         background: linear-gradient(90deg, rgb(214,96,77), #fff, rgb(67,147,195)); }
.t { position: relative; border-radius: .15rem; }
.t:hover { outline: 1px solid #2563a8; }
.tip { display: none; position: absolute; left: 0; top: 1.5em; z-index: 9; background: #fff;
       border: 1px solid #bbb; border-radius: .3rem; box-shadow: 0 2px 8px #0003;
       font-size: .75rem; line-height: 1.3; white-space: nowrap; padding: .2rem; }
.t:hover .tip { display: block; } .tip th, .tip td { padding: .1rem .4rem; border: 0; }
.tip tr:nth-child(2) { font-weight: 600; background: #eef3f9; }
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
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def cards(answers: Mapping[str, str]) -> str:
    """Answers (HTML) side by side under their names."""
    boxes = "".join(
        f'<div class="card"><h3>{escape(name)}</h3><div class="text">{answer}</div></div>'
        for name, answer in answers.items()
    )
    return f'<div class="grid">{boxes}</div>'


def coloured_tokens(tokens: Sequence[TokenReport], weights: Mapping[str, float]) -> str:
    """An answer with every token coloured by what its guide changed.

    The colour is the weighted mean of the ARMs' advantages, `log π_i(y_t)` less its mean under the
    base's distribution at that place, in nats: blue above zero and red below. A raw log-prob would
    be low for any rare word. What else could have stood there opens over the token. Without a
    weight the text stays uncoloured.
    """
    total = sum(weights.values())
    spans = []
    for token in tokens:
        pull = sum(w * token.advantages.get(n, 0.0) for n, w in weights.items())
        shade = colour(pull / total) if total > 0 else "none"
        spans.append(
            f'<span class="t" style="background:{shade}">{escape(token.text)}'
            f"{_alternatives(token, list(weights))}</span>"
        )
    return "".join(spans)


def _alternatives(token: TokenReport, names: Sequence[str]) -> str:
    """A small table of the token and of the likeliest ones, shown while one points at the token."""
    head = "".join(f"<th>{escape(h)}</th>" for h in ("", "base", "steered", *names))
    others = [a for a in token.alternatives if a.token_id != token.token_id]
    rows = "".join(
        f"<tr><td>{escape(_visible(seen.text))}</td>"
        f"<td>{exp(seen.logp_base):.1%}</td><td>{exp(seen.logp_fused):.1%}</td>"
        + "".join(f"<td>{_advantage(token, seen, name)}</td>" for name in names)
        + "</tr>"
        for seen in (token, *others)
    )
    return f'<span class="tip"><table><tr>{head}</tr>{rows}</table></span>'


def _advantage(token: TokenReport, seen: Alternative, name: str) -> str:
    if name not in seen.rewards:
        return "–"  # the gate left the ARM out
    return f"{seen.rewards[name] - token.mean_rewards[name]:+.1f}"


def _visible(text: str) -> str:
    """A token's text with its white space to be seen."""
    return text.replace("\n", "⏎").replace(" ", "␣") or "∅"


def colour(nats: float) -> str:
    """Red below zero, white at zero, blue above; full at three nats."""
    share = max(-1.0, min(1.0, nats / STRONGEST))
    red, green, blue = (67, 147, 195) if share > 0 else (214, 96, 77)
    return f"rgba({red},{green},{blue},{abs(share):.2f})"
