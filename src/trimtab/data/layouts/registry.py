"""Every layout, once: its name, the columns that tell it, and what reads a row of it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trimtab.data.layouts import named, rated, two_sides
from trimtab.data.layouts.judged import Judged
from trimtab.data.sources import Row
from trimtab.errors import DataError


class UnknownLayoutError(DataError):
    """A row that is in no layout."""


@dataclass(frozen=True)
class Layout:
    """How one kind of preference data is laid out in columns.

    Attributes:
        name: what users call it.
        needs: columns that every row has.
        read: a row and its place as answers with scores, or as a row in TRL's columns.
        uses: further columns that are read where they are there; a name that ends in `*` stands
            for all that begin so.
        fits: whether a row is of this layout; by default one that has all of `needs`.
        grouped: a row holds one answer, and those with the same prompt belong together.
    """

    name: str
    needs: tuple[str, ...]
    read: Callable[[Row, str], Judged | Row]
    uses: tuple[str, ...] = ()
    fits: Callable[[Row], bool] | None = None
    grouped: bool = False

    def takes(self, row: Row) -> bool:
        """Whether a row is of this layout."""
        return self.fits(row) if self.fits else all(column in row for column in self.needs)

    def reads(self, column: str) -> bool:
        """Whether a column has a meaning here."""
        return column in (*self.needs, *self.uses, *ALWAYS) or any(
            use.endswith("*") and column.startswith(use[:-1]) for use in self.uses
        )


ALWAYS = ("system", "system_prompt", "tools")
"""Columns that belong to the prompt in every layout."""

_OURS = ("prompt", "objective", "labels", "scores", "kept")

LAYOUTS = (
    Layout(
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1", "better_response_id"),
        two_sides.pku_safe_rlhf,
        ("safer_response_id",),
    ),
    Layout("UltraFeedback", ("instruction", "completions"), rated.ultrafeedback),
    Layout(
        "HelpSteer",
        ("prompt", "response", "helpfulness"),
        rated.helpsteer,
        rated.ATTRIBUTES,
        grouped=True,
    ),
    Layout(
        "HelpSteer2 preferences",
        ("prompt", "response_1", "response_2", "preference_strength"),
        two_sides.helpsteer2_preference,
    ),
    Layout(
        "HelpSteer3 preferences",
        ("context", "response1", "response2", "overall_preference"),
        two_sides.helpsteer3,
    ),
    Layout("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), two_sides.shp),
    Layout("Nectar", ("prompt", "answers"), rated.nectar),
    Layout(
        "arena chats",
        ("conversation_a", "conversation_b", "winner"),
        two_sides.arena_chats,
        ("turn",),
    ),
    Layout(
        "arena answers",
        ("prompt", "response_a", "response_b", "winner"),
        two_sides.arena_answers,
    ),
    Layout(
        "arena answers, one column per outcome",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        two_sides.arena_answers,
        ("winner_tie",),
        fits=two_sides.fits_one_hot,
    ),
    Layout(
        "AlpacaFarm",
        ("instruction", "output_1", "output_2", "preference"),
        two_sides.alpaca_farm,
        ("input",),
    ),
    Layout(
        "PandaLM",
        ("instruction", "response1", "response2", "annotator1"),
        two_sides.pandalm,
        ("input", "annotator*"),
    ),
    Layout(
        "WebGPT",
        ("question", "answer_0", "answer_1", "score_0", "score_1"),
        two_sides.webgpt,
    ),
    Layout(
        "ShareGPT pairs",
        ("conversations", "chosen", "rejected"),
        named.sharegpt,
        ("messages", "objective", "labels", "scores"),
        fits=named.fits_sharegpt,
    ),
    Layout(
        "Alpaca pairs",
        ("instruction", "output"),
        named.alpaca,
        ("input", "history", "objective", "labels", "scores"),
        fits=named.fits_alpaca,
    ),
    Layout(
        "question pairs",
        ("question", "chosen", "rejected"),
        named.named,
        ("status", *named.PROMPTS, *(c for pair in named.SIDES for c in pair), *_OURS, "history"),
        fits=named.fits_named,
    ),
)

HH_RLHF = Layout(
    "HH-RLHF dialogues", ("chosen", "rejected"), named.trl, _OURS, fits=named.fits_dialogues
)
TRL = Layout("TRL", ("prompt", "chosen", "rejected"), named.trl, (*_OURS, "status"), named.fits_trl)
TEXTS = Layout("text lists", ("text",), named.texts, ("score", *_OURS), named.fits_texts)
EVERY = (*LAYOUTS, HH_RLHF, TRL, TEXTS)


def layout_of(row: Row, place: str) -> Layout:
    """The layout of a row.

    TRL's own columns count more than any other's; of two others neither is guessed.

    Raises:
        DataError: it fits none, or more than one.
    """
    fitting = [layout for layout in LAYOUTS if layout.takes(row)]
    if row.get("chosen") is not None and row.get("rejected") is not None:
        fitting = [layout for layout in fitting if "chosen" in layout.needs]
    if len(fitting) > 1:
        raise DataError(
            f"{place} fits two layouts, {fitting[0].name} and {fitting[1].name}",
            f"its columns are {_listed(row)}; say which are meant: {_BY_HAND}",
        )
    if fitting:
        return fitting[0]
    for layout in (HH_RLHF, TRL, TEXTS):
        if layout.takes(row):
            return layout
    raise _unknown(row, place)


_BY_HAND = "--columns prompt=…,chosen=…,rejected=…"


def _unknown(row: Row, place: str) -> UnknownLayoutError:
    nearest = max((TRL, *EVERY), key=lambda layout: _nearness(layout, row))
    lacks = [column for column in nearest.needs if column not in row]
    near = f"the nearest layout is {nearest.name}, which also needs {', '.join(lacks)}"
    if not lacks:
        near = f"{nearest.name} have such columns, but two answers where this row has none or one"
    if _nearness(nearest, row) < 0.25:
        near = "none has columns like these"
    return UnknownLayoutError(
        f"{place} is in no layout that is known: its columns are {_listed(row)}",
        f"{near}; or map columns by hand: {_BY_HAND}",
    )


def _nearness(layout: Layout, row: Row) -> float:
    """The share of a layout's columns that a row has; one that is spelt alike counts a half."""
    have = [column for column in layout.needs if column in row]
    alike = [
        column
        for column in layout.needs
        if column not in row and difflib.get_close_matches(column, map(str, row), 1, 0.8)
    ]
    return (len(have) + 0.5 * len(alike)) / len(layout.needs)


def _listed(row: Row, most: int = 20) -> str:
    names = [str(name) for name in row]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def known_columns() -> list[str]:
    """Every name of a column that some layout reads."""
    columns: dict[str, Any] = dict.fromkeys(("prompt", "chosen", "rejected"))
    for layout in EVERY:
        columns.update(dict.fromkeys((*layout.needs, *layout.uses)))
    columns.update(dict.fromkeys(ALWAYS))
    return [column for column in columns if not column.endswith("*")]
