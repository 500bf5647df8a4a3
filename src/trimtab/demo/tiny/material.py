"""The tiny model's demo."""

from __future__ import annotations

from trimtab.demo.material import Material, Objective
from trimtab.demo.tiny import MODEL, PAIRS
from trimtab.demo.tiny.prompts import HELD_OUT_PROMPTS, SHOWN_PROMPTS
from trimtab.demo.tiny.rules import CHEERFUL_WORDS, cheerful, dialogue

_CHEERFUL = rf"(?i)\b({'|'.join(sorted(CHEERFUL_WORDS))})\b"

TINY = Material(
    model=lambda: MODEL,
    about="a 5.7 M-parameter chat model",
    pairs=PAIRS,
    objectives=(
        Objective(
            "cheerful",
            cheerful,
            "different cheerful words",
            f"how many different words of this list occur: {', '.join(sorted(CHEERFUL_WORDS))}.",
            marks={_CHEERFUL: "bold green"},
        ),
        Objective(
            "dialogue",
            dialogue,
            "passages of direct speech",
            "how many passages stand between double quotes.",
            marks={r'"[^"\n]{2,}(?:"|$)': "cyan"},
        ),
    ),
    held_out=tuple(HELD_OUT_PROMPTS),
    shown=tuple(SHOWN_PROMPTS),
    curve=(0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0),
    opening="A frozen 5.7 M-parameter chat model is steered, token by token, by two small "
    "autoregressive reward models (ARMs) that were trained a minute ago on a few hundred "
    "preference pairs each. No weight of the model changes. The model is tiny and babbles: judge "
    "the style, not the sense.",
    training={
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_modules": ["all-linear"],
        "learning_rate": 3e-3,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 1,
    },
    sampling={"max_new_tokens": 64, "temperature": 0.8},
    batch_size=64,
)
