"""A comparison for readers: the tables, and the lines that say what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.comparison.length import RESAMPLES
from trimtab.comparison.texts import MOST

Results = Mapping[str, Any]
FEW_PROMPTS = 10

JUDGES = (
    "judge", "win", "tie", "lose", "win + ½ tie", "length-controlled", "score A", "score B",
    "A − B",
)  # fmt: skip
SIDES = (
    "side", "seeds", "answers", "characters", "words", "distinct-1", "distinct-2", "distinct-3",
    "self-BLEU", "cut off",
)  # fmt: skip
_OF_A_SIDE = (
    ("characters", 0), ("words", 0), ("distinct_1", 3), ("distinct_2", 3), ("distinct_3", 3),
    ("self_bleu", 3), ("cut_off", 3),
)  # fmt: skip


def judge_rows(results: Results) -> list[list[str]]:
    """A row per judge."""
    return [
        [
            f"{name} (less is better)" if numbers["cost"] else name,
            *(_alone(numbers[outcome]) for outcome in ("win", "tie", "lose")),
            cell(numbers["win_and_half_tie"]),
            cell(numbers["length_controlled"]),
            *(cell(numbers.get(key)) for key in ("score_a", "score_b")),
            cell(numbers.get("score_difference"), signed=True),
        ]
        for name, numbers in results["judges"].items()
    ]


def side_rows(results: Results) -> list[list[str]]:
    """A row per side."""
    return [
        [
            name,
            str(len(numbers["files"])),
            str(numbers["answers"]),
            *(cell(numbers[key], digits=digits) for key, digits in _OF_A_SIDE),
        ]
        for name, numbers in results["sides"].items()
    ]


def cell(found: Results | None, *, digits: int = 3, signed: bool = False) -> str:
    """A value with its interval; – where there is none."""
    if found is None:
        return "–"
    value, low, high = (round(found[key], digits) + 0.0 for key in ("value", "low", "high"))
    return f"{value:{'+' if signed else ''}.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _alone(found: Results | None) -> str:
    return "–" if found is None else f"{found['value']:.3f}"


def notes(results: Results) -> list[str]:
    """What the numbers rest on, a sentence or two each."""
    said = [f"{name}: {', '.join(numbers['files'])}." for name, numbers in results["sides"].items()]
    return [
        *said,
        f"n = {results['prompts']} prompts, {results['pairs']} pairs of answers, "
        f"{_seeds(results)}; 95 % intervals from {results['resamples']} bootstrap resamples "
        f"(length-controlled: {min(results['resamples'], RESAMPLES)}).",
        "Length-controlled: AlpacaEval 2.0's regression at equal lengths, without its term for an "
        "instruction's difficulty. Distinct-n: different n-grams of words among an answer's. "
        f"Self-BLEU: of each of a seed's first {MOST} answers with the others as references. Cut "
        "off: ended by the token limit.",
        *_about_missing(results),
    ]


def _seeds(results: Results) -> str:
    a, b = (len(results["sides"][name]["files"]) for name in "AB")
    if a == b == 1:
        return "one training seed a side: intervals are over prompts alone"
    meet = "each of A meets its own of B" if a == b else "each of A meets each of B"
    return f"{a} training seeds of A and {b} of B ({meet}): intervals are over seeds and prompts"


def _about_missing(results: Results) -> list[str]:
    lines = []
    for name, numbers in results["judges"].items():
        if numbers["missing"]:
            lines.append(
                f"{name}: {numbers['missing']} of {results['pairs']} pairs have no verdict and do "
                "not count."
            )
        if why := numbers["length_controlled_missing_because"]:
            lines.append(f"{name} has no length-controlled rate: {why}.")
    return lines


def warnings(results: Results) -> list[str]:
    """What a reader should know before any number, if anything."""
    n = results["prompts"]
    if n >= FEW_PROMPTS:
        return []
    return [
        f"warning: intervals over {n} prompt{'s' * (n > 1)} mean little; take {FEW_PROMPTS} or more"
    ]


def markdown(results: Results) -> str:
    """`table.md`: both tables and the notes."""
    parts = (
        _as_markdown([JUDGES, *judge_rows(results)]),
        _as_markdown([SIDES, *side_rows(results)]),
        "".join(f"- {note}\n" for note in notes(results)),
    )
    return "\n".join(parts)


def _as_markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *body = [[text.replace("|", "\\|") for text in line] for line in lines]
    table = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)
