"""Pairs and prompts of the HH-RLHF task: `python benchmarks/fronts/hh_pairs.py HH_FOLDER WORK`.

By the hash of the first user turn: test and validation prompts are set apart, the training prompts
are cut into two halves. ARMs learn from pairs of one half (as many harmless as helpful ones), the
trajectory-level judges that score the answers from the other. Where pairs get a second verdict, it
comes from labellers that learn from the whole of the ARMs' half.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from trimtab.arms.load import tokenizer_of
from trimtab.data.loading import read_pairs
from trimtab.data.pairs import Pair, split_of
from trimtab.demo.tiny import MODEL
from trimtab.models.messages import first_user_turn, prompt_hash

TOKENIZER = tokenizer_of(MODEL)

FILES = {
    "helpful": ["helpful-base.test.json.xz"],
    "harmless": ["harmless-base.test.jsonl.gz", "harmless-base.train5000.lastturn.json.xz"],
}
PAIRS = {"arm": 300, "validation": 200}  # of each objective
LENGTH = 160  # tokens of prompt and longer answer: training takes 192 with the chat template
PROMPTS = {"validation": 20, "test": 30}  # of each objective


def part_of(pair: Pair) -> str:
    split = split_of(pair.prompt)
    return split if split != "train" else ("arm", "judge")[prompt_hash(pair.prompt) // 10 % 2]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(len(rows), "rows in", path)


def row(pair: Pair) -> dict[str, object]:
    chosen, rejected = ([{"role": "assistant", "content": t}] for t in (pair.chosen, pair.rejected))
    return {"prompt": pair.prompt, "chosen": chosen, "rejected": rejected}


def tokens(pair: Pair) -> int:
    turns = [pair.prompt] if isinstance(pair.prompt, str) else [m["content"] for m in pair.prompt]
    asked = len(TOKENIZER("\n".join(turns))["input_ids"])
    return asked + max(len(TOKENIZER(t)["input_ids"]) for t in (pair.chosen, pair.rejected))


def main(data: Path, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    parts: dict[tuple[str, str], list[Pair]] = {}
    for objective, files in FILES.items():
        pairs, _ = read_pairs([str(data / name) for name in files], objective)
        for pair in sorted(pairs, key=lambda p: prompt_hash(p.prompt)):
            parts.setdefault((objective, part_of(pair)), []).append(pair)
    for (objective, part), pairs in parts.items():
        if part == "arm":
            write(work / f"labeller.{objective}.jsonl", [row(p) for p in pairs])
        if part in PAIRS:
            pairs = [p for p in pairs if tokens(p) <= LENGTH][: PAIRS[part]]
        if part != "test":
            write(work / f"{part}.{objective}.jsonl", [row(p) for p in pairs])
    for split, number in PROMPTS.items():
        found: list[str] = []
        for objective in FILES:
            turns = [first_user_turn(p.prompt) for p in parts[objective, split]]
            short = list(dict.fromkeys(t for t in turns if 0 < len(t) <= 300 and t not in found))
            found += short[:number]
        write(work / f"prompts.{split}.jsonl", [{"prompt": text} for text in found])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
