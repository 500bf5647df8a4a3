"""The demo on SmolLM2-135M-Instruct."""

from __future__ import annotations

from pathlib import Path

from trimtab.demo import PAIRS, WARM, fetch_smollm2
from trimtab.demo.material import Material, Objective
from trimtab.demo.smollm2.questions import HELD_OUT, SHOWN
from trimtab.demo.smollm2.scorers import grade, warm

SMOLLM2 = Material(
    model=fetch_smollm2,
    about="SmolLM2-135M-Instruct",
    pairs=PAIRS,
    objectives=(
        Objective(
            "plain",
            grade,
            "reading grade",
            "the Automated Readability Index (Senter & Smith, 1967) as textstat computes it: "
            "about a text's school grade, from characters per word and words per sentence.",
            less_is_better=True,
        ),
        Objective(
            "warm",
            warm,
            "VADER sentiment",
            "VADER's compound sentiment (Hutto & Gilbert, 2014) from -1 to 1, the mean over an "
            "answer's sentences.",
        ),
    ),
    held_out=HELD_OUT,
    shown=SHOWN,
    curve=(0.0, 0.25, 0.5, 0.75, 1.0),
    opening="SmolLM2-135M-Instruct is frozen: none of its weights changes. Two small "
    "autoregressive reward models (ARMs), LoRAs of 1.3 MB, steer it token by token: one towards "
    "plain language, trained while you waited, one towards warmth, which comes with Trimtab. Each "
    "learned from about a hundred pairs of the model's own answers, compared by textstat or VADER.",
    training={
        "lora_r": 8,
        "learning_rate": 1e-3,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "scale": 0.5,
    },
    sampling={"max_new_tokens": 80, "temperature": 0.8},
    shipped={"warm": WARM},
    control=str(Path(WARM).parent / "shuffled"),
    batch_size=len(HELD_OUT),
)
