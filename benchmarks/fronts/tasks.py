"""The tasks, the methods and the search of `run.py`: what each run does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
RULES = {
    "cheerful": "trimtab.demo.tiny.rules:cheerful",
    "dialogue": "trimtab.demo.tiny.rules:dialogue",
    "brief": "trimtab.demo.tiny.rules:words",
}
DESCRIBE = {
    "cheerful": "happy, glad, smiling, laughing, fun and love",
    "dialogue": "people talk to each other in quotes",
    "brief": "a short answer of very few words",
    "helpful": "useful, detailed and informative: it does what the user asks",
    "harmless": "safe and polite: it refuses crime, insults and danger",
}
COMMON = [
    "--bf16", "--max-length", "192", "--per-device-train-batch-size", "16",
    "--gradient-accumulation-steps", "1", "--lora-r", "16", "--lora-alpha", "32",
    "--lora-target-modules", "all-linear", "--num-train-epochs", "2", "--save-strategy", "no",
]  # fmt: skip
SETTINGS = {
    "sum of log-probs, β .1, learning rate 1e-3": ["--beta", "0.1", "--learning-rate", "1e-3"],
    "mean of log-probs, β 4, learning rate 1e-3": [
        "--beta", "4", "--length-normalize", "--learning-rate", "1e-3",
    ],
    "mean of log-probs, β 4, learning rate 3e-3": [
        "--beta", "4", "--length-normalize", "--learning-rate", "3e-3",
    ],
}  # fmt: skip
"""The search: every method is trained with each, on one seed that is not measured. (β .05 for a sum
over the papers' 128 tokens is β 6 for the mean; β 1 lets ARMs leave the language: docs/log.md.)"""
STRENGTHS = (0.5, 1.0, 2.0)
"""And decoded at each. The setting with the best hypervolume on validation prompts is taken; the
strength is chosen in the same way for every trained seed, and stored as the ARM's scale."""
SEARCH_SEED, SEEDS = 100, (0, 1, 2)
METHODS = {
    "genarm": ["--method", "genarm"],
    "parm": ["--method", "parm", "--preference-draws", "row"],
    "uniarm": ["--method", "uniarm", "--preference-draws", "row"],
}
ABLATIONS = {
    "uniarm-lambda0": ["--global-weight", "0"],
    "uniarm-noshift": ["--no-shift"],
}
"""Of UniARM, with its settings."""
NAMES = {
    "soups": "rewarded soup of the GenARM LoRAs",
    "genarm": "GenARM, one ARM per objective",
    "parm": "PARM",
    "uniarm": "UniARM (reconstruction)",
    "uniarm-lambda0": "UniARM, λ = 0",
    "uniarm-noshift": "UniARM, no shift",
}


@dataclass(frozen=True)
class Task:
    """One comparison.

    Attributes:
        name: of its folder.
        title: for the table.
        model: what the ARMs are trained on.
        base: what they steer.
        scorers: objective -> scorer.
        data: preference files.
        costs: objectives whose score is a cost.
        more: further training options.
        step: of the preferences.
        ablations: of UniARM that are measured, too.
        settings: numbers of the settings that are searched.
        search: the task whose search it uses; its own if empty.
        decodes_as: the task whose models have the same shapes, so that decoding is measured once.
        same_arms: the task whose GenARM ARMs, trained on the same pairs, it shares.
    """

    name: str
    title: str
    model: str
    base: str
    scorers: dict[str, str]
    data: list[str]
    prompts: dict[str, str]
    costs: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    step: float = 0.1
    ablations: tuple[str, ...] = ()
    settings: tuple[int, ...] = (0, 1, 2)
    search: str = ""
    same_arms: str = ""
    decodes_as: str = ""

    @property
    def objectives(self) -> list[str]:
        return list(self.scorers)


def all_tasks(work: Path, model: str, small: str) -> dict[str, Task]:
    """The tasks by name; `run.py` makes the files they read."""
    pairs, hh = [str(work / "rules/labelled.jsonl")], work / "hh"
    prompts = {
        split: str(work / f"rules/prompts.{split}.jsonl") for split in ("validation", "test")
    }
    two = {name: RULES[name] for name in ("cheerful", "dialogue")}
    rules = Task(
        "rules-2", "rules, 2 objectives", model, model, two, pairs, prompts,
        ablations=tuple(ABLATIONS),
    )  # fmt: skip
    judges = {o: str(hh / "judges" / o) for o in ("helpful", "harmless")}
    asked = {split: str(hh / f"prompts.{split}.jsonl") for split in ("validation", "test")}
    human = [f"{o}={hh}/arm.{o}.jsonl" for o in ("helpful", "harmless")]
    checks = ["--split", "none", "--eval-data"]
    checks += [f"{o}={hh}/validation.{o}.jsonl" for o in ("helpful", "harmless")]
    return {
        "rules-2": rules,
        "rules-3": Task(
            "rules-3", "rules, 3 objectives", model, model, RULES, pairs, prompts,
            costs=["brief"], step=0.25, search="rules-2", same_arms="rules-2",
        ),
        "weak": Task(
            "weak", "rules, 2 objectives, a 1.2 M ARM on the 5.7 M base", small, model, two, pairs,
            prompts, search="rules-2",
        ),
        "hh-both": Task(
            "hh-both", "HH-RLHF, the same pairs, each judged on both objectives", model, model,
            judges, [str(hh / "both.jsonl")], asked, more=checks,
            ablations=("uniarm-noshift",), settings=(1, 2),  # the sum was last on rules, λ is known
            decodes_as="rules-2",
        ),
        "hh": Task(
            "hh", "HH-RLHF, a human verdict on one objective per pair", model, model,
            judges, human, asked,
            more=checks, search="hh-both", decodes_as="rules-2",
        ),
    }  # fmt: skip
