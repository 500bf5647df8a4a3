"""A comparison for readers: the tables, and the lines that say what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.comparison.length import RESAMPLES
from trimtab.comparison.texts import MOST

Results = Mapping[str, Any]
FEW_PROMPTS = 10

Table = tuple[str, Sequence[str], list[list[str]]]
"""Title, headings, rows."""

_OF_A_SIDE = (
    ("characters", 0), ("words", 0), ("distinct_1", 3), ("distinct_2", 3), ("distinct_3", 3),
    ("self_bleu", 3), ("cut_off", 3), ("base_nll", 3),
)  # fmt: skip


def tables(results: Results) -> list[Table]:
    """Who wins, the scores where there are some, and what the answers are like."""
    judges: Results = results["judges"]
    scored = {name: numbers for name, numbers in judges.items() if numbers.get("score_difference")}
    wins: Table = (
        "who wins (A's wins are counted)",
        ("judge", "win", "tie", "lose", "win + ½ tie", "length-controlled"),
        [
            [
                _judge(name, numbers),
                *(_alone(numbers[outcome]) for outcome in ("win", "tie", "lose")),
                *(cell(numbers[key]) for key in ("win_and_half_tie", "length_controlled")),
            ]
            for name, numbers in judges.items()
        ],
    )
    scores: Table = (
        "mean scores",
        ("judge", "A", "B", "A − B"),
        [
            [
                _judge(name, numbers),
                *(cell(numbers[key]) for key in ("score_a", "score_b")),
                cell(numbers["score_difference"], signed=True),
            ]
            for name, numbers in scored.items()
        ],
    )
    sides = list(results["sides"].values())
    texts: Table = (
        "what the answers are like",
        ("", *results["sides"]),
        [
            ["seeds", *(str(len(side["files"])) for side in sides)],
            ["answers", *(str(side["answers"]) for side in sides)],
            *(
                [_called(key), *(cell(side[key], digits=digits) for side in sides)]
                for key, digits in _OF_A_SIDE
            ),
        ],
    )
    return [wins, *_orders(judges), *([scores] if scored else []), texts]


def _orders(judges: Results) -> list[Table]:
    """How far judges that were asked in both orders are to be trusted."""
    asked = {name: numbers for name, numbers in judges.items() if "replies" in numbers}
    columns = ("judge", "orders disagree", "first shown preferred", "questions", "no verdict")
    rows = [
        [
            name,
            *(cell(numbers[key]) for key in ("orders_disagree", "first_shown")),
            str(numbers["replies"]["questions"]),
            str(numbers["replies"]["unread"] + numbers["replies"]["unanswered"]),
        ]
        for name, numbers in asked.items()
    ]
    return [("both orders", columns, rows)] if rows else []


def _judge(name: str, numbers: Results) -> str:
    return f"{name} (less is better)" if numbers["cost"] else name


def _called(key: str) -> str:
    named = {"self_bleu": "self-BLEU", "cut_off": "cut off", "base_nll": "base NLL"}
    return named.get(key, key.replace("_", "-"))


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
        "off: ended by the token limit. Base NLL: of the answers' text, nats per token.",
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
    if any("replies" in numbers for numbers in results["judges"].values()):
        lines.append(
            "Both orders: a judge's verdict is the mean of what it says with A shown first and "
            "with B shown first (1, .75, .5, .25 or 0 for A); above .5 A wins, below it loses. "
            "First shown preferred: of both times, a tie being a half; without a bias .5. "
            "No verdict: of the questions, those whose reply names none."
        )
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
    """`table.md`: the tables and the notes."""
    told = "".join(f"- {note}\n" for note in notes(results))
    drawn = (_as_markdown([columns, *rows]) for _, columns, rows in tables(results))
    return "\n".join([*drawn, told])


def _as_markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *body = [[text.replace("|", "\\|") for text in line] for line in lines]
    table = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)
