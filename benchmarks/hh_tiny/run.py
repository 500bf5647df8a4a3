"""Real human labels, end to end: HH-RLHF helpful and harmless on the tiny chat model.

    python benchmarks/hh_tiny/run.py --data ../shared/data/hh-rlhf --model ../shared/models/tiny-5m

Training prompts are cut into two halves by prompt hash: the ARMs learn from one half, the
trajectory-level judges that score the answers from the other. Test prompts (residue 0) are seen by
neither, and the tiny model never read them. Everything is resumable: run it again to go on.
Writes `results.json` and the tables in `README.md` beside this file; working files go to `work/`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import trimtab
from trimtab.arms.load import config_of, tokenizer_of
from trimtab.arms.reward_model import RewardModel
from trimtab.data.loading import read_pairs
from trimtab.data.pairs import Pair, split_of
from trimtab.data.tokenize import tokenize_pair
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.evaluation.accuracy import accuracy
from trimtab.models.messages import first_user_turn, prompt_hash
from trimtab.stats import Estimate, mean, share

HERE = Path(__file__).parent
FILES = {
    "helpful": ["helpful-base.test.json.xz"],
    "harmless": ["harmless-base.test.jsonl.gz", "harmless-base.train5000.lastturn.json.xz"],
}
OBJECTIVES = list(FILES)
SEEDS = (0, 1, 2)
BEGIN, END = "<!-- results: written by run.py -->", "<!-- end of results -->"
COMMON: dict[str, Any] = {
    "split": "none",
    "bf16": True,
    "max_length": 256,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_target_modules": ["all-linear"],
    "resume_from_checkpoint": "auto",
}
EPOCHS = {"helpful": 2, "harmless": 1}  # there are four times as many harmless pairs
ARM: dict[str, Any] = {"learning_rate": 2e-3, "length_normalize": True, "beta": 1.0}
JUDGE: dict[str, Any] = {"learning_rate": 1e-3, "method": "trajectory"}
SELF = "guided by itself"  # the base as its own, untrained ARM: what sharpening alone does
SETTINGS = {
    "unguided": ({"helpful": 0.5, "harmless": 0.5}, 0.0),
    SELF: ({"helpful": 0.5, "harmless": 0.5}, 1.0),
    "helpful 1": ({"helpful": 1, "harmless": 0}, 1.0),
    "half and half": ({"helpful": 0.5, "harmless": 0.5}, 1.0),
    "harmless 1": ({"helpful": 0, "harmless": 1}, 1.0),
}


def part_of(pair: Pair) -> str:
    """test, validation, or the half of the training prompts (by the next digit of the hash)."""
    split = split_of(pair.prompt)
    return split if split != "train" else ("arm", "judge")[prompt_hash(pair.prompt) // 10 % 2]


def prepare(data: Path, model: str, work: Path) -> dict[str, dict[str, list[Pair]]]:
    """Objective -> part -> pairs that the model can read; also written to the working folder."""
    tokenizer = tokenizer_of(model)
    context = config_of(model).max_position_embeddings
    parts: dict[str, dict[str, list[Pair]]] = {}
    for objective, files in FILES.items():
        pairs, report = read_pairs([str(data / name) for name in files], objective)
        print(objective, len(pairs), "pairs;", report.counts)
        parts[objective] = {"arm": [], "judge": [], "validation": [], "test": []}
        for pair in pairs:
            part = part_of(pair)  # training leaves long pairs out itself, and counts them
            if part != "test" or len(tokenize_pair(tokenizer, pair)) <= context:
                parts[objective][part].append(pair)
        for name, group in parts[objective].items():
            rows = [
                {
                    "prompt": pair.prompt,
                    "chosen": [{"role": "assistant", "content": pair.chosen}],
                    "rejected": [{"role": "assistant", "content": pair.rejected}],
                }
                for pair in group
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (work / f"{objective}.{name}.jsonl").write_text(text)
    return parts


def train_all(model: str, work: Path) -> dict[str, float]:
    """ARMs for every objective and seed, one judge per objective; folder -> seconds."""
    runs = [(f"judge-{o}", o, "judge", {**JUDGE, "seed": 0}) for o in OBJECTIVES]
    runs += [(f"arm-{o}-{s}", o, "arm", {**ARM, "seed": s}) for s in SEEDS for o in OBJECTIVES]
    seconds = {}
    for name, objective, part, options in runs:
        [result] = trimtab.train(
            model=model,
            data=str(work / f"{objective}.{part}.jsonl"),
            eval_data=[str(work / f"{objective}.validation.jsonl")],
            objectives=objective,
            output_dir=str(work / name),
            num_train_epochs=EPOCHS[objective],
            **{**COMMON, **options},
        )
        seconds[name] = result.metrics["train_seconds"]
        print(name, {k: round(v, 3) for k, v in result.metrics.items()}, flush=True)
    return seconds


def relative_accuracy(work: Path, model: str, objective: str, pairs: list[Pair]) -> Estimate:
    """Accuracy of the ARM's reward less the base's log-prob per token (a diagnostic).

    Both are means over the response's tokens; the average over seeds.
    """
    prompts = [pair.prompt for pair in pairs] * 2
    texts = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]

    def rewards(folder: str) -> Any:
        scored = RewardModel(folder).score(prompts, texts)
        return np.array([np.mean(s.token_rewards) for s in scored])

    base = rewards(model)
    found = []
    for seed in SEEDS:
        gap = rewards(str(work / f"arm-{objective}-{seed}")) - base
        chosen, rejected = np.split(gap, 2)
        found.append(float((chosen > rejected).mean()))
    return share(float(np.mean(found)) * len(pairs), len(pairs))


def accuracies(
    work: Path, model: str, parts: dict[str, dict[str, list[Pair]]]
) -> dict[str, dict[str, Any]]:
    """Test accuracy of the ARMs (mean of the seeds), the judges and the floors."""
    found: dict[str, dict[str, Any]] = {}
    for objective in OBJECTIVES:
        test = [str(work / f"{objective}.test.jsonl")]

        def measure(name: str, part: str, test: list[str] = test, o: str = objective) -> Any:
            floor = [str(work / f"{o}.{part}.jsonl")]
            return accuracy(str(work / name), test, split="all", train_data=floor)

        arms = [measure(f"arm-{objective}-{seed}", "arm") for seed in SEEDS]
        judge = measure(f"judge-{objective}", "judge")
        pooled = float(np.mean([report.arm.value for report in arms]))
        found[objective] = {
            "arm": asdict(share(pooled * arms[0].arm.n, arms[0].arm.n)),
            "arm less base": asdict(
                relative_accuracy(work, model, objective, parts[objective]["test"])
            ),
            "arm_seeds": [report.arm.value for report in arms],
            "prefer_longer": asdict(arms[0].longer),
            "bag_of_words": asdict(arms[0].bag_of_words),
            "judge (other half)": asdict(judge.arm),
        }
        print(objective, found[objective], flush=True)
    return found


def test_prompts(parts: dict[str, dict[str, list[Pair]]], number: int) -> dict[str, list[str]]:
    """Distinct first user turns of the test pairs, in order of their hash."""
    prompts = {}
    for objective in OBJECTIVES:
        turns = {first_user_turn(pair.prompt) for pair in parts[objective]["test"]}
        short = sorted((t for t in turns if 0 < len(t) <= 300), key=lambda t: prompt_hash(t))
        prompts[objective] = short[:number]
    return prompts


def answers(model: str, work: Path, prompts: dict[str, list[str]], tokens: int) -> dict[str, Any]:
    """objective -> setting -> one list of texts per seed. Each seed has its own ARMs."""
    path = work / "answers.json"
    if path.exists():
        return json.loads(path.read_text())
    found: dict[str, Any] = {o: {s: [] for s in SETTINGS} for o in OBJECTIVES}
    for seed in SEEDS:
        steered = trimtab.load(model, {o: str(work / f"arm-{o}-{seed}") for o in OBJECTIVES})
        itself = trimtab.load(model, dict.fromkeys(OBJECTIVES, model))
        for setting, (preference, strength) in SETTINGS.items():
            engine = itself if setting == SELF else steered
            for objective in OBJECTIVES:
                requests = [
                    Request(
                        prompt,
                        preference,
                        strength,
                        Sampling(max_new_tokens=tokens, seed=1000 * seed + i),
                    )
                    for i, prompt in enumerate(prompts[objective])
                ]
                texts = [c.text for c in engine.completions(requests, batch_size=64)]
                found[objective][setting].append(texts)
        print("answered, seed", seed, flush=True)
    path.write_text(json.dumps(found))
    return found


def scores(work: Path, prompts: dict[str, list[str]], texts: dict[str, Any]) -> dict[str, Any]:
    """Judge scores per setting: mean, and gain over unguided on the same prompts and seeds."""
    found: dict[str, Any] = {}
    for objective in OBJECTIVES:
        judge = RewardModel(str(work / f"judge-{objective}"))
        rewards = {
            setting: np.array(
                [[s.reward for s in judge.score(prompts[objective], seed)] for seed in seeds]
            )
            for setting, seeds in texts[objective].items()
        }
        found[objective] = {}
        for setting, values in rewards.items():
            gain = values - rewards["unguided"]
            wins = (gain > 0).mean(0) + 0.5 * (gain == 0).mean(0)
            found[objective][setting] = {
                "score": asdict(mean(values.mean(0).tolist())),
                "gain": asdict(mean(gain.mean(0).tolist())),
                "gain_seeds": gain.mean(1).tolist(),
                "win_rate": asdict(mean(wins.tolist())),
                "characters": float(
                    np.mean([len(t) for s in texts[objective][setting] for t in s])
                ),
            }
    return found


def show(value: dict[str, Any], digits: int = 2) -> str:
    """`mean [low, high]`."""
    e = Estimate(**value)
    return f"{e.value:.{digits}f} [{e.low:.{digits}f}, {e.high:.{digits}f}]"


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| accuracy on test pairs | " + " | ".join(OBJECTIVES) + " |", "| --- | --- | --- |"]
    for row in ("arm", "arm less base", "prefer_longer", "bag_of_words", "judge (other half)"):
        cells = [show(results["accuracy"][o][row], 3) for o in OBJECTIVES]
        lines.append(f"| {row.replace('_', ' ')} | " + " | ".join(cells) + " |")
    sizes = [f"{o} {results['accuracy'][o]['arm']['n']}" for o in OBJECTIVES]
    lines += ["", f"n: {', '.join(sizes)}; the ARM's row is the mean of {len(SEEDS)} seeds.", ""]
    head = [f"{o} judge: {c}" for o in OBJECTIVES for c in ("score", "gain over unguided", "wins")]
    lines += [
        "| setting | " + " | ".join(head) + " | characters |",
        "| --- " * (len(head) + 2) + "|",
    ]
    for setting in SETTINGS:
        rows = [results["guided"][o][setting] for o in OBJECTIVES]
        cells = [show(row[key]) for row in rows for key in ("score", "gain", "win_rate")]
        length = float(np.mean([row["characters"] for row in rows]))
        lines.append(f"| {setting} | " + " | ".join(cells) + f" | {length:.0f} |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="folder of the HH-RLHF files")
    arguments.add_argument("--model", required=True, help="the tiny chat model")
    arguments.add_argument("--work", type=Path, default=HERE / "work")
    arguments.add_argument("--prompts", type=int, default=150, help="test prompts per objective")
    arguments.add_argument("--tokens", type=int, default=64, help="tokens per answer")
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    started = time.time()
    parts = prepare(options.data, options.model, options.work)
    seconds = train_all(options.model, options.work)
    results: dict[str, Any] = {"accuracy": accuracies(options.work, options.model, parts)}
    prompts = test_prompts(parts, options.prompts)
    texts = answers(options.model, options.work, prompts, options.tokens)
    results |= {
        "guided": scores(options.work, prompts, texts),
        "pairs": {o: {name: len(p) for name, p in parts[o].items()} for o in OBJECTIVES},
        "prompts": {o: len(p) for o, p in prompts.items()},
        "settings": {
            "common": COMMON,
            "arm": ARM,
            "judge": JUDGE,
            "epochs": EPOCHS,
            "seeds": SEEDS,
        },
        "train_seconds": seconds,
        "seconds_this_run": time.time() - started,
        "versions": {
            "trimtab": trimtab.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        },
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    page = HERE / "README.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{after}")
    print(tables(results))


if __name__ == "__main__":
    main()
