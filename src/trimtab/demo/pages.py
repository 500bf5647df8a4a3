"""What the demo leaves behind: results.json, the trade-off picture and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab import __version__
from trimtab.demo.prompts import HELD_OUT_PROMPTS
from trimtab.demo.rules import CHEERFUL_WORDS, UNITS
from trimtab.demo.story import CURVE, OBJECTIVES, SHOWN, STRENGTH, UNGUIDED, Scores, Setting
from trimtab.engines.types import Completion
from trimtab.evaluation import report
from trimtab.evaluation.plots import Point, tradeoff_plot
from trimtab.files import write_json, write_text
from trimtab.training.run import TrainResult

Shown = Mapping[str, Mapping[str, Completion]]
Swept = Mapping[Setting, Scores]


def score_rows(swept: Swept) -> list[list[str]]:
    """The table: setting, then each objective's mean with its interval."""
    named = {(s.strength, s.first): s.name for s in SHOWN}
    rows = []
    for setting, scores in swept.items():
        name = named.get((setting.strength, setting.first))
        if setting is not UNGUIDED:
            weights = ", ".join(f"{n} {w:g}" for n, w in setting.preference.items() if w)
            name = weights if name in (None, weights) else f"{weights} ({name})"
        cells = [f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" for e in scores.values()]
        rows.append([name or setting.name, *cells])
    return rows


def draw(path: Path, swept: Swept) -> None:
    """The trade-off curve over preferences."""
    points = {
        setting: Point(_label(setting), *(scores[name] for name in OBJECTIVES))
        for setting, scores in swept.items()
    }
    base = points.pop(UNGUIDED)
    tradeoff_plot(
        path,
        list(points.values()),
        base,
        title=f"One frozen model, {len(CURVE)} preferences (numbers: weight of {OBJECTIVES[0]})",
        x_label=f"{UNITS[OBJECTIVES[0]]} per answer",
        y_label=f"{UNITS[OBJECTIVES[1]]} per answer",
    )


def _label(setting: Setting) -> str:
    if setting is UNGUIDED:
        return "unguided"
    ends = {0.0: f"{OBJECTIVES[1]} 1", 1.0: f"{OBJECTIVES[0]} 1"}
    return ends.get(setting.first, f"{setting.first:.1f}")


def save_results(
    path: Path, trained: Mapping[str, TrainResult], swept: Swept, *, seed: int
) -> dict[str, Any]:
    """Every number of the demo, with n, interval and seed."""
    results = {
        "trimtab": __version__,
        "seed": seed,
        "strength": STRENGTH,
        "prompts": len(HELD_OUT_PROMPTS),
        "training": {name: result.metrics for name, result in trained.items()},
        "scores": [
            {
                "setting": setting.name,
                "strength": setting.strength,
                "preference": setting.preference,
                **{name: asdict(estimate) for name, estimate in scores.items()},
            }
            for setting, scores in swept.items()
        ],
    }
    write_json(path, results)
    return results


def save_report(path: Path, shown: Shown, swept: Swept, plot: Path, *, seed: int) -> None:
    """The self-contained page."""
    sections = [
        report.paragraph(
            "A frozen 5.7 M-parameter chat model is steered, token by token, by two small "
            "autoregressive reward models (ARMs) that were trained a minute ago on a few hundred "
            "preference pairs each. No weight of the model changes. The model is tiny and babbles: "
            "judge the style, not the sense."
        ),
        report.heading("The same prompt, four ways"),
        report.paragraph(
            "Blue: the ARMs in force like the token more than the base does; red: less. "
            "Hover for the log-probs. Same seed in every column."
        ),
        f'<p class="note">−{report.STRONGEST:g} nats <span class="scale"></span> '
        f"+{report.STRONGEST:g} nats</p>",
    ]
    for prompt, answers in shown.items():
        sections.append(report.paragraph(f"“{prompt}”"))
        sections.append(report.cards({s.name: _coloured(s, answers[s.name]) for s in SHOWN}))
    columns = ["setting", *(f"{name}: {UNITS[name]}" for name in OBJECTIVES)]
    sections += [
        report.heading("Rule scores on held-out prompts"),
        report.html_table(columns, score_rows(swept)),
        report.paragraph(
            f"Means with 95 % bootstrap intervals over {len(HELD_OUT_PROMPTS)} prompts whose "
            f"subjects are in no training pair; strength {STRENGTH:g}, seed {seed}.",
            note=True,
        ),
        report.heading("The trade-off"),
        report.picture(plot, "Mean rule scores along the preferences, with intervals"),
        report.heading("The rules"),
        report.paragraph("cheerful: how many different words of this list occur: "
                         + ", ".join(sorted(CHEERFUL_WORDS)) + "."),
        report.paragraph("dialogue: how many passages stand between double quotes."),
    ]  # fmt: skip
    write_text(path, report.page("Trimtab: a frozen model, steered", sections))


def _coloured(setting: Setting, completion: Completion) -> str:
    weights = {n: w * setting.strength for n, w in setting.preference.items() if w > 0}
    return report.coloured_tokens(completion.tokens, weights)
