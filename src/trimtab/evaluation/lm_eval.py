"""lm-eval's command line with the model `trimtab`: `python -m trimtab.evaluation.lm_eval`.

lm-eval looks for no plug-ins: a model that is not its own has to be imported before its command
line runs.
"""

from __future__ import annotations

import importlib
import sys

from trimtab.errors import TrimtabError


def main() -> int:
    """Run lm-eval on this process's arguments; 2 where Trimtab refuses them."""
    try:
        importlib.import_module("trimtab.evaluation.guided_lm")  # registers it
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    except TrimtabError as error:
        print(f"trimtab: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
