"""The demo's own material: a tiny chat model, prompts, rules, and preference pairs made from them.

Attributes:
    MODEL: folder of a 5.7 M-parameter chat model (Llama architecture), shipped with the package.
    PAIRS: about 600 preference pairs for two objectives, `cheerful` and `dialogue`, sampled from
        that model and labelled by the rules in `rules.py` (see `make_pairs.py`).
"""

from pathlib import Path

MODEL = str(Path(__file__).parent / "tiny-5m")
PAIRS = str(Path(__file__).parent / "pairs.jsonl")
