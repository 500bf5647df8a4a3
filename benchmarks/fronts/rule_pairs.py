"""Pairs for the rule-scored task: `python benchmarks/fronts/rule_pairs.py OUTPUT.jsonl`.

For each training prompt of the demo the tiny model writes sixteen answers; for each rule the best
and the worst of them make a pair, and so do the next best and the next worst, in random order,
unless the rule sees too little difference. The pairs carry no labels: `trimtab label` judges every
pair by every rule.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from trimtab.demo.tiny import MODEL
from trimtab.demo.tiny.prompts import TRAINING_PROMPTS
from trimtab.demo.tiny.rules import cheerful, dialogue, words
from trimtab.engines.local import load_engine

SAMPLES, PAIRS, TOKENS, SEED = 16, 2, 48, 0
RULES = {cheerful: 2.0, dialogue: 1.0, words: 12.0}  # and the smallest difference that counts


def main(output: Path) -> None:
    engine = load_engine(MODEL, dtype="bfloat16")
    asked = [prompt for prompt in TRAINING_PROMPTS for _ in range(SAMPLES)]
    answers = engine.generate(asked, max_new_tokens=TOKENS, top_p=0.95, seed=SEED, batch_size=64)
    chance = random.Random(SEED)
    rows = []
    for number, prompt in enumerate(TRAINING_PROMPTS):
        texts = [a.text for a in answers[number * SAMPLES : (number + 1) * SAMPLES]]
        for rule, gap in RULES.items():
            ranked = sorted((text for text in texts if text.strip()), key=rule)
            for two in zip(ranked[::-1][:PAIRS], ranked[:PAIRS], strict=True):
                if rule(two[0]) - rule(two[1]) >= gap:
                    chosen, rejected = chance.sample(two, 2)
                    rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(len(rows), "pairs in", output)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
