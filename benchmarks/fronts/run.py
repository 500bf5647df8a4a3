"""GenARM, PARM, UniARM and rewarded soups on the same pairs: fronts, hypervolume, cost.

    python benchmarks/fronts/run.py --hh HH_RLHF_FOLDER --small TINY_1M_FOLDER

Only Trimtab's own commands are run, each resumable: run it again to go on. Every method has the
same search on validation prompts (`tasks.py`), then three training seeds, then one sweep on test
prompts. `report.py` then writes `results.json` and the tables in `README.md`. Working files go to
`work/`, which must be emptied when `tasks.py` changes; only one run may use it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks import (
    ABLATIONS,
    COMMON,
    DESCRIBE,
    HERE,
    METHODS,
    RULES,
    SEARCH_SEED,
    SEEDS,
    SETTINGS,
    STRENGTHS,
    Task,
    all_tasks,
)  # fmt: skip

from trimtab.arms.sidecar import store_scale
from trimtab.demo.tiny import MODEL
from trimtab.demo.tiny.prompts import HELD_OUT_PROMPTS, TRAINING_PROMPTS

TOKENS = 48


def trimtab(*arguments: str) -> None:
    """One command in a process of its own, on one thread; its output goes to the log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "trimtab", *arguments]
    with (HERE / "work/log.txt").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"failed: trimtab {' '.join(arguments)} (see work/log.txt)")


def prepare_rules(folder: Path) -> None:
    """Pairs that the base wrote, judged by rules, and prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pairs.jsonl").exists():
        script = [str(HERE / "rule_pairs.py"), str(folder / "pairs.jsonl")]
        subprocess.run([sys.executable, *script], check=True)
    scorers = [part for o, rule in RULES.items() for part in ("--scorer", f"{o}={rule}")]
    labelled = ["--output", str(folder / "labelled.jsonl"), "--costs", "brief"]
    trimtab("label", "--data", str(folder / "pairs.jsonl"), *scorers, *labelled)
    held_out = [prompt for i, prompt in enumerate(HELD_OUT_PROMPTS) if i % 6 < 4]
    parts = {"validation": TRAINING_PROMPTS[::10], "test": held_out}
    for split, prompts in parts.items():
        text = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        (folder / f"prompts.{split}.jsonl").write_text(text)


def prepare_hh(data: Path, folder: Path) -> None:
    """Pairs and prompts of HH-RLHF, the judges, and the second verdict of every pair."""
    if not (folder / "prompts.test.jsonl").exists():
        script = [str(HERE / "hh_pairs.py"), str(data), str(folder)]
        subprocess.run([sys.executable, *script], check=True)
    human, scorers = [], []
    for objective, epochs in (("helpful", 2), ("harmless", 1)):
        train_judge(folder, "judge", objective, epochs)
        train_judge(folder, "labeller", objective, 2)
        human.append(f"{objective}={folder}/arm.{objective}.jsonl")
        scorers += ["--scorer", f"{objective}={folder}/labellers/{objective}"]
    both = ["--keep-labels", "--output", f"{folder}/both.jsonl"]
    trimtab("label", "--data", *human, *scorers, *both)


def train_judge(folder: Path, kind: str, objective: str, epochs: int) -> None:
    """A trajectory-level reward model of the pairs of one half."""
    output = folder / f"{kind}s" / objective
    if not (output / "results.json").exists():
        trimtab(
            "train", "--model", MODEL, *COMMON, "--max-length", "256",
            "--num-train-epochs", str(epochs), "--learning-rate", "1e-3",
            "--method", "trajectory", "--objectives", objective,
            "--data", f"{folder}/{kind}.{objective}.jsonl", "--split", "none",
            "--eval-data", f"{folder}/validation.{objective}.jsonl",
            "--output-dir", str(output), "--resume-from-checkpoint", "auto",
        )  # fmt: skip


def train(task: Task, folder: Path, options: list[str]) -> None:
    """One method on one seed; nothing if it is there."""
    wanted = {folder: ",".join(task.objectives)}
    if "genarm" in options:
        wanted = {folder / objective: objective for objective in task.objectives}
    describe = ["--describe", *(f"{o}={DESCRIBE[o]}" for o in task.objectives)]
    described = describe if "uniarm" in options else []
    for place, objectives in wanted.items():
        same = HERE / "work" / task.same_arms / folder.name / objectives
        if task.same_arms and (same / "results.json").exists() and not place.exists():
            shutil.copytree(same, place)
            set_scale(place, 1.0)
        if not (place / "results.json").exists():
            trimtab(
                "train", "--model", task.model, "--data", *task.data, *COMMON, *task.more,
                *options, *described, "--objectives", objectives, "--output-dir", str(place),
                "--resume-from-checkpoint", "auto", "--overwrite",
            )  # fmt: skip


def sweep(task: Task, output: Path, split: str, step: float, guides: list[str]) -> dict[str, Any]:
    """One `trimtab pareto`; its report."""
    scorers = [part for o, spec in task.scorers.items() for part in ("--scorer", f"{o}={spec}")]
    costs = ["--costs", *task.costs] if task.costs else []
    seeds = [str(seed) for seed in (SEEDS if split == "test" else (0,))]
    trimtab(
        "pareto", "--base", task.base, *guides, *scorers, *costs, "--prompts", task.prompts[split],
        "--preference-step", str(step), "--seeds", *seeds, "--max-new-tokens", str(TOKENS),
        "--batch-size", "64", "--dtype", "bfloat16", "--output-dir", str(output),
        "--max-responses", "50000",
    )  # fmt: skip
    report: dict[str, Any] = json.loads((output / "front.json").read_text())
    return report


def search(task: Task, work: Path, jobs: ThreadPoolExecutor) -> dict[str, dict[str, Any]]:
    """Method -> the loss that has the best hypervolume on validation prompts at any strength."""
    home = work / task.name / "search"
    settings = list(SETTINGS.values())
    runs = [
        (home / method / str(i), [*flags, *settings[i], "--seed", str(SEARCH_SEED)])
        for method, flags in METHODS.items()
        for i in task.settings
    ]
    list(jobs.map(lambda run: train(task, *run), runs))

    def best(method: str) -> dict[str, Any]:
        folders = {str(i): str(home / method / str(i)) for i in task.settings}
        found = strengths(task, home / f"front-{method}", folders)
        number, _ = max(found, key=lambda key: found[key])
        values = {f"{list(SETTINGS)[int(n)]}, strength {s:g}": v for (n, s), v in found.items()}
        return {"setting": list(SETTINGS)[int(number)], "hypervolumes": values}

    return dict(zip(METHODS, jobs.map(best, METHODS), strict=True))


def strengths(
    task: Task, output: Path, folders: dict[str, str], option: str = "--guide"
) -> dict[tuple[str, float], float]:
    """(Name of a folder, strength) -> hypervolume on validation prompts, all in one sweep."""
    guides = [
        part
        for name, folder in folders.items()
        for strength in STRENGTHS
        for part in (option, f"{name}x{strength}={folder}@{strength}")
    ]
    report = sweep(task, output, "validation", 0.25, guides)
    fronts = {n.partition("x"): g for n, g in report["guides"].items() if n != "base"}
    return {
        (name, float(text)): front["hypervolume"]["value"]
        for (name, _, text), front in fronts.items()
    }


def calibrate(task: Task, home: Path, name: str, seed: int) -> None:
    """Choose a trained guide's strength on validation prompts and store it as its ARMs' scale."""
    folder = home / f"{name}-{seed}"
    told = folder / "strength.json"
    if not told.exists():
        option = "--soup" if name == "soups" else "--guide"
        found = strengths(task, home / f"strength-{name}-{seed}", {"g": str(folder)}, option)
        (_, best), _ = max(found.items(), key=lambda item: item[1])
        values = {strength: value for (_, strength), value in found.items()}
        told.write_text(json.dumps({"strength": best, "all": values}))
    set_scale(folder, float(json.loads(told.read_text())["strength"]))


def measure(task: Task, work: Path, chosen: dict[str, Any], jobs: ThreadPoolExecutor) -> None:
    """Train all seeds with the chosen losses, calibrate each, and sweep the test prompts."""
    home = work / task.name
    flags = {m: [*f, *SETTINGS[chosen[m]["setting"]]] for m, f in METHODS.items()}
    flags |= {name: [*flags["uniarm"], *ABLATIONS[name]] for name in task.ablations}
    runs = [
        (home / f"{name}-{seed}", [*own, "--seed", str(seed)])
        for seed in SEEDS
        for name, own in flags.items()
    ]
    list(jobs.map(lambda run: train(task, *run), runs))
    names = list(flags)
    if task.base == task.model:
        names.append("soups")
        for seed in SEEDS:
            if not (home / f"soups-{seed}").exists():  # the same ARMs, with a scale of their own
                shutil.copytree(home / f"genarm-{seed}", home / f"soups-{seed}")
                (home / f"soups-{seed}" / "strength.json").unlink(missing_ok=True)
                set_scale(home / f"soups-{seed}", 1.0)
    pairs = [(name, seed) for name in names for seed in SEEDS]
    list(jobs.map(lambda pair: calibrate(task, home, *pair), pairs))
    guides = [
        part
        for name in names
        for part in (
            "--soup" if name == "soups" else "--guide",
            f"{name}={home}/{name}-{{seed}}",
        )
    ]
    sweep(task, home / "front", "test", task.step, guides)


def set_scale(folder: Path, scale: float) -> None:
    """Store how hard the ARMs of a folder pull at strength 1."""
    for sidecar in folder.rglob("trimtab.json"):
        store_scale(sidecar.parent, scale)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--hh", type=Path, required=True, help="folder of the HH-RLHF files")
    arguments.add_argument("--small", required=True, help="the 1.2 M chat model")
    arguments.add_argument("--jobs", type=int, default=2, help="commands that run at once")
    arguments.add_argument("--tasks", nargs="+", default=list(all_tasks(HERE, "", "")))
    options = arguments.parse_args()
    work = HERE / "work"
    work.mkdir(exist_ok=True)
    tasks = all_tasks(work, MODEL, options.small)
    if any(not name.startswith("hh") for name in options.tasks):
        prepare_rules(work / "rules")
    if any(name.startswith("hh") for name in options.tasks):
        prepare_hh(options.hh, work / "hh")
    chosen: dict[str, Any] = {}
    with ThreadPoolExecutor(options.jobs) as jobs:
        for name in options.tasks:
            task = tasks[name]
            if not task.search:
                chosen[name] = search(task, work, jobs)
                (work / f"chosen-{name}.json").write_text(json.dumps(chosen[name], indent=1))
            source = task.search or name
            own = chosen.get(source) or json.loads((work / f"chosen-{source}.json").read_text())
            measure(task, work, own, jobs)
            shutil.copy(work / name / "front/front.png", HERE / f"{name}.png")
            print("measured", name, flush=True)


if __name__ == "__main__":
    main()
