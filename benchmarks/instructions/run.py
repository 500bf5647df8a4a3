"""What an instruction does to a real model, beside an ARM trained for the same.

    make models
    python benchmarks/instructions/run.py

SmolLM2-135M-Instruct answers the demo's held-out questions (no ARM was trained on them) under
`--instruct` at several strengths, guided by the demo's ARMs for plain language (trained here, on a
hundred pairs, as `make demo` does) and for warmth (shipped), under the instruction as a system
message, which strength 1 of `--instruct` has to equal, and guided by the ARM that `trimtab distill`
makes of the instruction on the demo's training questions. Writes `results.json` and the table in
`README.md`; `--only distilled` measures the last two anew and keeps the other rows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trimtab
from trimtab.bench.machine import conditions
from trimtab.demo.smollm2.material import SMOLLM2
from trimtab.demo.smollm2.questions import TRAINING
from trimtab.demo.story import Measured, measured, train_arms
from trimtab.engines.local import LocalEngine
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.jobs import unseen
from trimtab.models.messages import Prompt
from trimtab.stats import Estimate

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: written by run.py -->", "<!-- end of results -->"
INSTRUCT = {
    "plain": "Use short, simple words and short sentences, so that a child can understand.",
    "warm": "Be warm, kind and encouraging.",
}
STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)


def answers(
    engine: LocalEngine,
    name: str,
    strength: float,
    seeds: int,
    options: argparse.Namespace,
    prompts: Sequence[Prompt] = SMOLLM2.held_out,
) -> Measured:
    """To every question with several seeds, in one setting."""
    preference = {n: float(n == name) for n in engine.objectives} if strength else None
    sampling = Sampling(max_new_tokens=options.tokens, temperature=0.8)
    requests = [
        Request(prompt, preference, strength, sampling.but(seed=100 * s + i), report=True)
        for s in range(seeds)
        for i, prompt in enumerate(prompts)
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


def guided(model: str, options: argparse.Namespace, rows: dict[str, Measured]) -> None:
    """Add the rows of instructions at several strengths and of trained ARMs."""
    if not (options.work / "arms/plain/adapter_config.json").exists():
        train_arms(SMOLLM2, model, options.work, seed=0, overwrite=True, progress=unseen)
    engine = trimtab.load(
        model,
        {"plain_arm": str(options.work / "arms/plain"), "warm_arm": SMOLLM2.shipped["warm"]},
        instruct=INSTRUCT,
    )
    rows["unguided"] = answers(engine, "plain", 0.0, options.seeds, options)
    for name in INSTRUCT:
        for strength in STRENGTHS:
            told = f"told to be {name}, strength {strength:g}"
            rows[told] = answers(engine, name, strength, options.seeds, options)
        rows[f"ARM for {name}"] = answers(engine, f"{name}_arm", 1.0, options.seeds, options)


def distilled(model: str, options: argparse.Namespace, rows: dict[str, Measured]) -> None:
    """Add the rows of the plain instruction as a system message, and of the ARM made of it."""
    questions = options.work / "questions.jsonl"
    options.work.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": q}) + "\n" for q in TRAINING[: options.questions]]
    questions.write_text("".join(lines))
    start = time.perf_counter()
    trimtab.distill(
        base=model,
        instruct={"plain": INSTRUCT["plain"]},
        prompts=str(questions),
        output_dir=str(options.work / "distilled"),
        samples=2,
        max_new_tokens=64,
        num_train_epochs=options.epochs,
        progress=lambda what, done, total: print(f"{what} {done}/{total}", flush=True),
    )
    print(f"distilled in {time.perf_counter() - start:.0f} s", flush=True)
    engine = trimtab.load(model, {"plain": str(options.work / "distilled")})
    told = [
        [{"role": "system", "content": INSTRUCT["plain"]}, {"role": "user", "content": question}]
        for question in SMOLLM2.held_out
    ]
    rows["plain as a system message"] = answers(engine, "plain", 0.0, options.seeds, options, told)
    for strength in (1.0, 1.5, 2.0):
        name = f"plain distilled, strength {strength:g}"
        rows[name] = answers(engine, "plain", strength, options.seeds, options)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--questions", type=int, default=20, help="to distil on")
    parser.add_argument("--epochs", type=float, default=2.0, help="of distilling")
    parser.add_argument("--only", choices=["distilled"])
    parser.add_argument("--work", type=Path, default=HERE / "work")
    options = parser.parse_args()
    before = json.loads((HERE / "results.json").read_text()) if options.only else {"rows": {}}
    rows = {name: from_json(row) for name, row in before["rows"].items()}
    if not options.only:
        guided(SMOLLM2.model(), options, rows)
    distilled(SMOLLM2.model(), options, rows)
    machine = conditions("cpu")
    settings = {"instruct": INSTRUCT, "seeds": options.seeds, "tokens": options.tokens}
    settings |= {"questions": options.questions, "epochs": options.epochs}
    results = {
        "conditions": before.get("conditions", machine),
        "conditions_of_the_distilled": machine,
        "settings": settings,
        "rows": {name: asdict(row) for name, row in rows.items()},
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    readme = HERE / "README.md"
    start, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f"{start}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}")


def from_json(row: dict[str, Any]) -> Measured:
    """A row that was written before."""
    known = {name: Estimate(**row[name]) for name in ("base_nll", "distinct_2", "words")}
    return Measured({name: Estimate(**found) for name, found in row["scores"].items()}, **known)


if __name__ == "__main__":
    main()
