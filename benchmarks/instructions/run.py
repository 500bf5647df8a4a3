"""What an instruction does to a real model, beside an ARM trained for the same.

    make models
    python benchmarks/instructions/run.py

SmolLM2-135M-Instruct answers the demo's held-out questions (no ARM was trained on them) under
`--instruct` at several strengths, guided by the demo's ARMs for plain language (trained here, on a
hundred pairs, as `make demo` does) and for warmth (shipped). Strength 1 of an instruction is the
model under it as a system message. Writes `results.json` and the table in `README.md`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import trimtab
from trimtab.bench.machine import conditions
from trimtab.demo.smollm2.material import SMOLLM2
from trimtab.demo.story import Measured, measured, train_arms
from trimtab.engines.local import LocalEngine
from trimtab.engines.types import Request, Sampling
from trimtab.jobs import unseen
from trimtab.stats import Estimate

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: written by run.py -->", "<!-- end of results -->"
INSTRUCT = {
    "plain": "Use short, simple words and short sentences, so that a child can understand.",
    "warm": "Be warm, kind and encouraging.",
}
STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)


def answers(
    engine: LocalEngine, name: str, strength: float, seeds: int, options: argparse.Namespace
) -> Measured:
    """To every question with several seeds, in one setting."""
    preference = {n: float(n == name) for n in engine.objectives} if strength else None
    sampling = Sampling(max_new_tokens=options.tokens, temperature=0.8)
    requests = [
        Request(prompt, preference, strength, sampling.but(seed=100 * s + i), report=True)
        for s in range(seeds)
        for i, prompt in enumerate(SMOLLM2.held_out)
    ]
    return measured(SMOLLM2, engine.generate(requests, batch_size=24), seed=0)


def table(rows: dict[str, Measured]) -> str:
    """Markdown."""

    def cell(found: Estimate, digits: int = 2) -> str:
        return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"

    lines = [
        "| | reading grade | sentiment | base NLL | words | distinct-2 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        scores = [cell(row.scores["plain"], 1), cell(row.scores["warm"]), cell(row.base_nll)]
        lines.append(f"| {' | '.join([name, *scores, cell(row.words, 0), cell(row.distinct_2)])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    options = parser.parse_args()
    model = SMOLLM2.model()
    if not (options.work / "arms/plain/adapter_config.json").exists():
        train_arms(SMOLLM2, model, options.work, seed=0, overwrite=True, progress=unseen)
    engine = trimtab.load(
        model,
        {"plain_arm": str(options.work / "arms/plain"), "warm_arm": SMOLLM2.shipped["warm"]},
        instruct=INSTRUCT,
    )
    rows = {"unguided": answers(engine, "plain", 0.0, options.seeds, options)}
    for name in INSTRUCT:
        for strength in STRENGTHS:
            told = f"told to be {name}, strength {strength:g}"
            rows[told] = answers(engine, name, strength, options.seeds, options)
            print(table(rows).splitlines()[-1], flush=True)
        rows[f"ARM for {name}"] = answers(engine, f"{name}_arm", 1.0, options.seeds, options)
        print(table(rows).splitlines()[-1], flush=True)
    results = {
        "conditions": conditions("cpu"),
        "settings": {"instruct": INSTRUCT, "seeds": options.seeds, "tokens": options.tokens},
        "rows": {name: asdict(row) for name, row in rows.items()},
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
