"""`python benchmarks/fronts/report.py`: what `run.py` left in `work/`, as results.json and tables.

Also measures, alone on the machine, what decoding costs with each guide: time per token and memory.
With `--redraw` it only draws the pictures again, from results.json.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from tasks import ABLATIONS, HERE, METHODS, NAMES, SEEDS, Task, all_tasks

import trimtab
from trimtab.bench.machine import conditions
from trimtab.bench.speed.measure import measure, peak_memory
from trimtab.bench.speed.rows import BASE_ROW, OwnModels
from trimtab.demo.tiny import MODEL
from trimtab.fronts.files import draw
from trimtab.fronts.measures import hypervolume, mean_inner_product

WORK = HERE / "work"
BEGIN, END = "<!-- results: written by report.py -->", "<!-- end of results -->"


def arms_of(task: Task, method: str, seed: int = 0) -> dict[str, str]:
    folder = WORK / task.name / f"{'genarm' if method == 'soups' else method}-{seed}"
    if method in ("genarm", "soups"):
        return {objective: str(folder / objective) for objective in task.objectives}
    return {method: str(folder)}


def trained(folders: dict[str, str]) -> int:
    """Trained parameters in adapter folders; the fixed vectors of a UniARM are none."""
    total = 0
    for folder in folders.values():
        with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as tensors:
            names = [name for name in tensors.keys() if not name.startswith("condition.")]  # noqa: SIM118
            total += sum(int(np.prod(tensors.get_slice(name).get_shape())) for name in names)
    return total


def seconds(task: Task, method: str) -> float:
    """Training time of all ARMs of a method, mean over seeds."""
    folders = [arms_of(task, method, seed).values() for seed in SEEDS]
    times = [
        sum(json.loads((Path(f) / "results.json").read_text())["train_seconds"] for f in own)
        for own in folders
    ]
    return float(np.mean(times))


def per_seed(task: Task, front: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Hypervolume and MIP of each seed's own front, in the report's own units."""
    rows = [json.loads(line) for line in (WORK / task.name / "front/records.jsonl").open()]
    scale, reference = front["normalization"], front["reference"]["common"]
    names = front["objectives"]
    sign = {name: -1 if name in front["costs"] else 1 for name in names}
    found: dict[str, dict[str, list[float]]] = {}
    for guide in front["guides"]:
        if guide == "base":
            continue
        found[guide] = {"hypervolume": [], "mip": []}
        for seed in front["seeds"]:
            points = [
                [
                    np.mean(
                        [
                            sign[n] * (row["scores"][n] - scale["mean"][n]) / scale["unit"][n]
                            for row in rows
                            if (row["guide"], row["seed"], row["preference"])
                            == (guide, seed, preference)
                        ]
                    )
                    for n in names
                ]
                for preference in front["preferences"]
            ]
            weights = [[p[n] for n in names] for p in front["preferences"]]
            own = found[guide]
            own["hypervolume"].append(hypervolume(points, [reference[n] for n in names]))
            own["mip"].append(mean_inner_product(points, weights))
    return found


def decoding(task: Task, methods: list[str]) -> dict[str, dict[str, float]]:
    """What decoding costs, measured once."""
    path = WORK / (task.decodes_as or task.name) / "decoding.json"
    if not path.exists() and not task.decodes_as:
        path.write_text(json.dumps(measure_decoding(task, methods)))
    found: dict[str, dict[str, float]] = json.loads(path.read_text())
    return found


def measure_decoding(task: Task, methods: list[str]) -> dict[str, dict[str, float]]:
    """Time per token beside the base alone (batch 32), and peak memory."""
    options = {
        "dtype": "bfloat16",
        "device": "cpu",
        "trust_remote_code": [],
        "draft": None,
        "quantization": None,
    }
    rows = {
        name: OwnModels(
            task.base,
            arms_of(task, name),
            {**options, "combine": "soup" if name == "soups" else "fusion"},
        )
        for name in methods
    }
    first = rows["genarm"]
    makers = {BASE_ROW: first.makers()[BASE_ROW]}
    makers |= {name: models.makers()["guided"] for name, models in rows.items()}
    found = measure(
        makers, first.prompts, [(32, 32)], new_tokens=32, repeats=5, progress=lambda *_: None
    )
    costs = {
        row.name: {
            "ms_per_token": row.ms_per_token,
            "ratio": row.ratio,
            "low": row.ratio_low,
            "high": row.ratio_high,
        }
        for row in found
    }
    costs[BASE_ROW]["bytes"] = peak_memory(first, BASE_ROW, 32, 32, 32) or float("nan")
    for name, models in rows.items():
        costs[name]["bytes"] = peak_memory(models, "guided", 32, 32, 32) or float("nan")
    return costs


def results_of(task: Task) -> dict[str, Any]:
    front = json.loads((WORK / task.name / "front/front.json").read_text())
    methods = [name for name in NAMES if name in front["guides"]]
    found = WORK.glob(f"{task.name}/*/strength.json")
    return {
        "strengths": {p.parent.name: json.loads(p.read_text()) for p in sorted(found)},
        "name": task.name,
        "title": task.title,
        "judges": judges_of(task),
        "front": front,
        "per_seed": per_seed(task, front),
        "trained_parameters": {m: trained(arms_of(task, m)) for m in methods},
        "train_seconds": {m: seconds(task, m) for m in methods},
        "decoding": decoding(task, methods),
        "chosen": json.loads((WORK / f"chosen-{task.search or task.name}.json").read_text()),
    }


def judges_of(task: Task) -> dict[str, dict[str, list[float]]]:
    """How often the reward models of a task agree with people: share and number of pairs."""
    if not task.name.startswith("hh"):
        return {}
    kinds = ["judges", *(["labellers"] if task.name == "hh-both" else [])]
    found: dict[str, dict[str, list[float]]] = {}
    for kind in kinds:
        for objective in task.objectives:
            pairs = str(WORK / f"hh/validation.{objective}.jsonl")
            judge = trimtab.accuracy(str(WORK / "hh" / kind / objective), pairs, split="all").arm
            found.setdefault(kind, {})[objective] = [judge.value, judge.n]
    return found


def show(value: dict[str, float] | None, digits: int, sign: str = "") -> str:
    if value is None:
        return "–"
    rounded = (round(value[k], digits) + 0.0 for k in ("value", "low", "high"))  # no -0.0
    estimate, low, high = (f"{v:{sign}.{digits}f}" for v in rounded)
    return f"{estimate} [{low}, {high}]"


def table(found: dict[str, Any]) -> list[str]:
    front, decoded = found["front"], found["decoding"]
    methods = [name for name in NAMES if name in front["guides"]]
    own = {
        m: ", ".join(f"{found['strengths'][f'{m}-{s}']['strength']:g}" for s in SEEDS)
        for m in methods
    }
    digits = 1 if front["guides"]["genarm"]["hypervolume"]["value"] > 10 else 2
    lines = [
        f"### {found['title']}",
        "",
        f"![The fronts]({found['name']}.png)",
        "",
        "| | HV | − GenARM | of each seed | MIP | − GenARM | of each seed | strength |",
        "| --- " * 8 + "|",
        "| base |" + quality(front["guides"]["base"], None, digits) + " – |",
    ]
    lines += [
        f"| {NAMES[name]} |"
        f"{quality(front['guides'][name], found['per_seed'][name], digits)} {own[name]} |"
        for name in methods
    ]
    lines += [
        "",
        "| | trained parameters | training, s | time per token, × base | memory, MiB |",
        "| --- " * 5 + "|",
        f"| base | 0 | – | 1 | {decoded[BASE_ROW]['bytes'] / 2**20:.0f} |",
    ]
    for name in methods:
        cost = decoded[name]
        lines.append(
            f"| {NAMES[name]} | {found['trained_parameters'][name]:,} "
            f"| {found['train_seconds'][name]:.0f} "
            f"| {cost['ratio']:.2f} [{cost['low']:.2f}, {cost['high']:.2f}] "
            f"| {cost['bytes'] / 2**20:.0f} |"
        )
    return [*lines, "", *notes(found), ""]


def quality(guide: dict[str, Any], seeds: dict[str, list[float]] | None, digits: int) -> str:
    """Cells of hypervolume and mean inner product."""
    cells = []
    for name, shown in (("hypervolume", digits), ("mip", 2)):
        values = ", ".join(f"{v:.{shown}f}" for v in seeds[name]) if seeds else "–"
        difference = show(guide[f"{name}_difference"], shown, "+")
        cells += [show(guide[name], shown), difference, values]
    return " " + " | ".join(cells) + " |"


def picture(front: dict[str, Any], path: Path) -> None:
    """The front without the ablations, by the names that a reader knows."""
    names = {
        "base": "base",
        "genarm": "GenARM, two ARMs",
        "soups": "rewarded soup",
        "parm": "PARM",
        "uniarm": "UniARM",
    }
    shown = {label: front["guides"][name] for name, label in names.items()}
    draw(path, {**front, "guides": shown})


def notes(found: dict[str, Any]) -> list[str]:
    """What the numbers are of."""
    front, base = found["front"], found["decoding"][BASE_ROW]
    mean = ", ".join(f"{o} {v:.2f}" for o, v in front["normalization"]["mean"].items())
    unit = ", ".join(f"{o} {v:.2f}" for o, v in front["normalization"]["unit"].items())
    worst = ", ".join(f"{o} {round(v, 2) + 0.0:.2f}" for o, v in front["reference"]["raw"].items())
    chosen = "; ".join(f"{NAMES[m]}: {found['chosen'][m]['setting']}" for m in METHODS)
    lines = [
        f"n = {front['n_prompts']} prompts, {len(front['seeds'])} seeds of training and sampling, "
        f"{len(front['preferences'])} preferences. Base: mean {mean}; standard deviation {unit} "
        "(the units of HV and MIP; the base has MIP 0). Reference point of HV (worst mean of all): "
        f"{worst}. The base alone takes {base['ms_per_token']:.2f} ms per token of a request "
        f"in a batch of 32. Chosen by the search: {chosen}.",
    ]
    for kind, rates in found["judges"].items():
        told = ", ".join(f"{o} {a:.2f} of {n}" for o, (a, n) in rates.items())
        lines.append(f"Validation pairs that the {kind} rank as people did: {told}.")
    return lines


def redraw() -> None:
    """Every picture again, from results.json alone."""
    tasks = json.loads((HERE / "results.json").read_text())["tasks"]
    for name, found in tasks.items():
        draw(HERE / f"{name}.png", found["front"])
    picture(tasks["rules-2"]["front"], HERE / "front.png")


def main() -> None:
    tasks = all_tasks(WORK, MODEL, "")
    names = [name for name in tasks if (WORK / name / "front/front.json").exists()]
    results = {name: results_of(tasks[name]) for name in names}
    report = {
        "tasks": results,
        "conditions": conditions("cpu"),
        "versions": {"trimtab": trimtab.__version__, "torch": torch.__version__},
        "machine": platform.machine(),
        "ablations": ABLATIONS,
    }
    picture(results["rules-2"]["front"], HERE / "front.png")
    (HERE / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    page = HERE / "README.md"
    text = "\n".join(line for name in names for line in table(results[name]))
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
    print(text)


if __name__ == "__main__":
    redraw() if sys.argv[1:] == ["--redraw"] else main()
