"""The demo without the package index: a 5.7 M-parameter model, rules, pairs; all of it shipped.

Attributes:
    MODEL: folder of the chat model (Llama architecture).
    PAIRS: about 600 preference pairs for two objectives, `cheerful` and `dialogue`, sampled from
        that model and labelled by the rules in `rules.py` (see `make_pairs.py`).
"""

from pathlib import Path

MODEL = str(Path(__file__).parent / "model")
PAIRS = str(Path(__file__).parent / "pairs.jsonl")
