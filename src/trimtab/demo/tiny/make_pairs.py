"""Makes the demo's preference pairs: `python -m trimtab.demo.tiny.make_pairs [OUTPUT]`.

For each training prompt the tiny model writes eight answers; for each objective the best and the
worst by its rule make a pair, unless the rule sees too little difference. Takes a few minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from trimtab.demo.tiny import MODEL, PAIRS
from trimtab.demo.tiny.prompts import TRAINING_PROMPTS
from trimtab.demo.tiny.rules import RULES
from trimtab.engines.local import load_engine
from trimtab.files import write_text

SAMPLES = 8
SMALLEST_GAP = {"cheerful": 2.0, "dialogue": 1.0}


def make_pairs(prompts: Sequence[str], *, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield preference rows (`prompt`, `chosen`, `rejected`, `objective`)."""
    engine = load_engine(MODEL)
    repeated = [prompt for prompt in prompts for _ in range(SAMPLES)]
    answers = engine.generate(
        repeated, max_new_tokens=64, temperature=1.0, top_p=0.95, seed=seed, batch_size=64
    )
    for number, prompt in enumerate(prompts):
        texts = [answer.text for answer in answers[number * SAMPLES : (number + 1) * SAMPLES]]
        for objective, rule in RULES.items():
            ranked = sorted(texts, key=rule)
            worst, best = ranked[0], ranked[-1]
            if rule(best) - rule(worst) >= SMALLEST_GAP[objective] and worst.strip():
                yield {
                    "prompt": prompt,
                    "chosen": best,
                    "rejected": worst,
                    "objective": objective,
                }


def main() -> None:
    """Write the pairs file."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else PAIRS)
    rows = list(make_pairs(TRAINING_PROMPTS))
    write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    counts = {name: sum(row["objective"] == name for row in rows) for name in RULES}
    print(f"{len(rows)} pairs in {output}: {counts}")


if __name__ == "__main__":
    main()
