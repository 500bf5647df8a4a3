"""TRL's preference formats, HH-RLHF dialogues and text lists, normalised to `Pair`.

A row is *malformed* when it is not a preference row at all (`DataError`), and *unusable* when it is
well formed but says nothing that can be learned (`Unusable`, counted and reported).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from trimtab.data.pairs import Comparison, Message, Pair, Prompt, RowReport
from trimtab.data.sources import Row
from trimtab.errors import DataError

T = TypeVar("T")

_DIALOGUE_START = re.compile(r"\s*Human:")
_TURN = re.compile(
    r"(?:^|\n\n)(Human|Assistant):[ ]?(.*?)(?=\n\nHuman:|\n\nAssistant:|\Z)", re.DOTALL
)
_ROLES = {"Human": "user", "Assistant": "assistant"}


class Unusable(Exception):
    """A well-formed row from which no pair can be made; the text is the reason."""


def read_pairs(
    sources: Sequence[str], objective: str = "", *, skip_bad_rows: bool = False
) -> tuple[list[Pair], RowReport]:
    """Read the pairs of one objective from files or hub data sets.

    Args:
        sources: what `read_rows` takes.
        objective: the objective wanted. Rows of another objective are passed over; rows of data
            that name no objective all belong to it. "" takes rows as they stand.
        skip_bad_rows: count malformed rows as unusable instead of refusing the data.

    Raises:
        DataError: a malformed row, no usable pair, or an objective that the data do not have.
    """
    pairs: list[Pair] = []
    report = RowReport()
    seen: set[str] = set()

    def own_pairs(row: Row, place: str) -> tuple[str, Row, list[Pair]]:
        return place, row, list(pairs_of(row, place))

    for place, row, found in usable_rows(sources, own_pairs, report, skip_bad_rows=skip_bad_rows):
        seen.update(pair.objective for pair in found)
        if _is_tied(row, objective):
            report.leave_out(f"a tie on {objective!r}", place)
        pairs += [p for p in found if not objective or p.objective in ("", objective)]
    if not pairs:
        named = sorted(seen - {""})
        if objective and named:
            raise DataError(
                f"the data have no objective {objective!r}", f"they have: {', '.join(named)}"
            )
        reasons = "; ".join(report.lines()) or "no rows"
        raise DataError(f"no usable pair in {', '.join(map(str, sources))}", reasons)
    return pairs, report


def usable_rows(
    sources: Sequence[str],
    read: Callable[[Row, str], T],
    report: RowReport,
    *,
    skip_bad_rows: bool = False,
) -> Iterator[T]:
    """Yield what `read(row, place)` makes of every row that can be used.

    Args:
        sources: what `read_rows` takes.
        read: raises `Unusable` for a row that teaches nothing, `DataError` for a malformed one.
        report: where rows are counted, and those that are left out.
        skip_bad_rows: count malformed rows as unusable instead of refusing the data.

    Raises:
        DataError: a malformed row, without `skip_bad_rows`.
    """
    from trimtab.data.sources import read_rows

    for source in sources:
        for place, row in read_rows(source):
            report.rows += 1
            try:
                found = read(row, place)
            except Unusable as reason:
                report.leave_out(str(reason), place)
            except DataError as error:
                if not skip_bad_rows:
                    raise
                report.leave_out(error.args[0].removeprefix(f"{place} "), place)
            else:
                yield found


def pairs_of(row: Row, place: str = "") -> Iterator[Pair]:
    """Yield the pairs in a row: one, or one per objective where it carries labels or scores.

    Raises: as `comparison_of`.
    """
    both = comparison_of(row, place)
    for objective, better in both.verdicts.items():
        sides = (both.chosen, both.rejected) if better == 0 else (both.rejected, both.chosen)
        yield Pair(both.prompt, *sides, objective, place, both.verbatim)


def comparison_of(row: Row, place: str = "") -> Comparison:
    """The two responses in a row and how they were judged.

    Raises:
        DataError: a column is missing or of the wrong type, or both sides are the same.
        Unusable: an empty side, a tie, dialogues that part before the last turn.
    """
    row = _two_texts(row, place)
    for column in ("chosen", "rejected"):
        if row.get(column) is None:
            raise DataError(f"{place} has no `{column}`", "every row needs `chosen` and `rejected`")
    prompt, chosen, rejected, verbatim = _sides(row, place)
    if chosen.strip() == rejected.strip():
        raise DataError(
            f"{place} has `chosen` equal to `rejected`",
            "delete such rows, or pass --skip-bad-rows to leave them out, counted",
        )
    if not chosen.strip() or not rejected.strip():
        raise Unusable("one side is empty")
    verdicts = dict(_verdicts(row, place))
    return Comparison(prompt, chosen, rejected, "", place, verbatim, verdicts)


def _two_texts(row: Row, place: str) -> Row:
    """`{"text": [chosen, rejected], "score": [1, 0]}` as chosen and rejected columns."""
    texts = row.get("text")
    if "chosen" in row or not isinstance(texts, list):
        return row
    if len(texts) != 2:
        raise DataError(f"{place} has {len(texts)} texts", "`text` must be [chosen, rejected]")
    score = row.get("score")
    if score is not None and not _are_scores(score):
        raise DataError(f"{place} has score {score!r}", "`score` must be two numbers")
    if score is not None and score[0] == score[1]:
        raise Unusable("a tie")
    if score is not None and score[1] > score[0]:
        texts = texts[::-1]
    rest = {key: value for key, value in row.items() if key not in ("text", "score")}
    return {**rest, "chosen": texts[0], "rejected": texts[1]}


def _verdicts(row: Row, place: str) -> Iterator[tuple[str, int]]:
    """(objective, index of the better side) for each objective that the row is judged on."""
    labels, scores = row.get("labels"), row.get("scores")
    if not isinstance(labels, dict) and not isinstance(scores, dict):
        yield str(row.get("objective") or ""), 0
        return
    verdicts = labels if isinstance(labels, dict) else cast(Row, scores)
    judged = {name: verdict for name, verdict in verdicts.items() if verdict is not None}
    if not judged:
        raise Unusable("judged on no objective")
    if verdicts is labels:
        for name, label in judged.items():
            if label not in (0, 1):
                raise DataError(
                    f"{place} has label {label!r} for {name!r}",
                    "a label is 0 (chosen is better) or 1 (rejected is better)",
                )
            yield name, int(label)
        return
    for name, pair in judged.items():
        if not _are_scores(pair):
            raise DataError(
                f"{place} has scores {pair!r} for {name!r}", "give two numbers: [chosen, rejected]"
            )
    if all(pair[0] == pair[1] for pair in judged.values()):
        raise Unusable("a tie on every objective")
    yield from ((name, int(b > a)) for name, (a, b) in judged.items() if a != b)


def _are_scores(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(score, int | float) and not math.isnan(score) for score in value)
    )


def _is_tied(row: Row, objective: str) -> bool:
    """Whether a row that is judged by scores says nothing on this one objective."""
    scores = row.get("scores")
    if isinstance(row.get("labels"), dict) or not isinstance(scores, dict):
        return False
    pair = scores.get(objective)
    return pair is not None and bool(pair[0] == pair[1])


def _sides(row: Row, place: str) -> tuple[Prompt, str, str, bool]:
    """Prompt, chosen, rejected, and whether the prompt is raw text cut anywhere."""
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            if _DIALOGUE_START.match(chosen) and _DIALOGUE_START.match(rejected):
                return *_part(_turns(chosen), _turns(rejected)), False
            return *_common_text(chosen, rejected), True
        if isinstance(prompt, str) and _DIALOGUE_START.match(prompt):
            return _open_dialogue(prompt), chosen.strip(), rejected.strip(), False
        return prompt_of(prompt, place), chosen, rejected, False
    sides = _messages(chosen, place, "chosen"), _messages(rejected, place, "rejected")
    if prompt is not None:
        before = prompt_of(prompt, place)
        before = [Message(role="user", content=before)] if isinstance(before, str) else before
        sides = _after(before, sides[0]), _after(before, sides[1])
    return *_part(*sides), False


def prompt_of(prompt: Any, place: str) -> Prompt:
    """A `prompt` column, checked: text or chat messages."""
    return prompt if isinstance(prompt, str) else _messages(prompt, place, "prompt")


def _messages(value: Any, place: str, column: str) -> list[Message]:
    good = isinstance(value, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in value
    )
    if not good or not value:
        raise DataError(
            f"{place} has a `{column}` that is neither text nor chat messages",
            'messages are [{"role": "user", "content": "…"}, …]',
        )
    return [Message(role=m["role"], content=m["content"]) for m in cast(list[Row], value)]


def _after(before: list[Message], side: list[Message]) -> list[Message]:
    """A side that repeats the prompt (perhaps after a system turn) stays; an answer follows it."""
    ends = (i for i in range(len(side)) if side[: i + 1][-len(before) :] == before)
    return side if next(ends, None) is not None else before + side


def _part(chosen: list[Message], rejected: list[Message]) -> tuple[Prompt, str, str]:
    """The shared chat and the two last assistant turns."""
    if not chosen or not rejected:
        raise Unusable("no dialogue turns")
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise Unusable("the last turn is not the assistant's")
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("the two dialogues part before the last turn")
    if len(chosen) == 1:
        raise Unusable("no prompt before the answer")
    return chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]


def _turns(text: str) -> list[Message]:
    """A dialogue written "\\n\\nHuman: … \\n\\nAssistant: …" as messages."""
    return [
        Message(role=_ROLES[who], content=said.strip())
        for who, said in _TURN.findall(text.lstrip())
    ]


def _open_dialogue(prompt: str) -> list[Message]:
    """A dialogue prompt that ends with an empty assistant turn, as messages without that turn."""
    turns = _turns(prompt)
    return turns[:-1] if turns and turns[-1] == {"role": "assistant", "content": ""} else turns


def _common_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """TRL's implicit prompt of plain texts: the longest common prefix, less a trailing space."""
    length = next(
        (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
        min(len(chosen), len(rejected)),
    )
    if length and chosen[length - 1] == " ":
        length -= 1
    if not length:
        raise Unusable("no prompt: the two texts share no beginning")
    return chosen[:length], chosen[length:], rejected[length:]
