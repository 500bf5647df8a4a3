"""Makes the demo's preference pairs: `python -m trimtab.demo.smollm2.make_pairs [OUTPUT]`.

SmolLM2-135M-Instruct itself answers each training question, three times in each voice. For each
objective two of a question's answers make a pair: those whose scores differ most in it and least in
the other objective. The scorers decide which is the better one; the voice plays no part in that.
Takes about ten minutes on two cores; sampling is in bfloat16, so another machine gives others.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.demo import PAIRS, fetch_smollm2
from trimtab.demo.smollm2.questions import TRAINING
from trimtab.demo.smollm2.scorers import SCORERS
from trimtab.demo.smollm2.voices import VOICES, chat
from trimtab.engines.local import load_engine
from trimtab.evaluation.texts import distinct
from trimtab.files import write_text

SAMPLES = 3
SHORTEST = 12  # words
LEAST_DISTINCT = 0.93
SPREAD = {"plain": 3.0, "warm": 0.2}  # about a standard deviation of each score, for the trade
SMALLEST_GAP = {"plain": 3.0, "warm": 0.25}
_END = re.compile(r"[.!?](?=\s|$)")


@dataclass(frozen=True)
class Answer:
    """A text and its scores."""

    text: str
    scores: dict[str, float]


def sample(questions: Sequence[str]) -> dict[str, list[Answer]]:
    """Question -> the answers to it that can be used."""
    engine = load_engine(fetch_smollm2(), dtype="bfloat16")
    asked = [question for question in questions for _ in range(SAMPLES)]
    answers_of: dict[str, list[Answer]] = {question: [] for question in questions}
    for voice in VOICES:
        completions = engine.generate(
            [chat(voice, question) for question in asked],
            max_new_tokens=96, temperature=0.8, top_p=0.95, seed=0, batch_size=40,
        )  # fmt: skip
        for question, completion in zip(asked, completions, strict=True):
            text = whole_sentences(completion.text)
            if len(text.split()) >= SHORTEST and distinct(text) >= LEAST_DISTINCT:
                scores = {name: score(text) for name, score in SCORERS.items()}
                answers_of[question].append(Answer(text, scores))
    return answers_of


def whole_sentences(text: str) -> str:
    """A text without what was cut off at its end."""
    ends = [match.end() for match in _END.finditer(text.strip())]
    return text.strip()[: ends[-1]] if ends else ""


def pairs_of(question: str, answers: Sequence[Answer]) -> Iterator[dict[str, str]]:
    """Preference rows (`prompt`, `chosen`, `rejected`, `objective`), one an objective at most."""
    for name, other in (("plain", "warm"), ("warm", "plain")):

        def gap(pair: tuple[Answer, Answer], of: str) -> float:
            return (pair[0].scores[of] - pair[1].scores[of]) / SPREAD[of]

        def worth(pair: tuple[Answer, Answer], name: str = name, other: str = other) -> float:
            return gap(pair, name) - 0.5 * abs(gap(pair, other))

        best = max(itertools.permutations(answers, 2), key=worth, default=None)
        if best and gap(best, name) * SPREAD[name] >= SMALLEST_GAP[name]:
            chosen, rejected = (answer.text for answer in best)
            yield {"prompt": question, "chosen": chosen, "rejected": rejected, "objective": name}


def main() -> None:
    """Write the pairs file."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else PAIRS)
    rows = [
        row for question, sampled in sample(TRAINING).items() for row in pairs_of(question, sampled)
    ]
    write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    counts = {name: sum(row["objective"] == name for row in rows) for name in SCORERS}
    print(f"{len(rows)} pairs in {output}: {counts}")


if __name__ == "__main__":
    main()
