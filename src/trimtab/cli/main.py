"""Entry point: finds the command, runs it, turns errors into one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from trimtab.errors import TrimtabError
from trimtab.version import __version__

COMMANDS = {
    "demo": "the whole story on a real model, in minutes on two cores",
    "data": "show what would be read of preference data",
    "train": "train a reward model on preference pairs",
    "distill": "make an ARM of an instruction or a contrast, without its tokens",
    "generate": "answer prompts with a frozen base steered by ARMs",
    "chat": "the same, interactively; preference and strength change live",
    "serve": "the same over HTTP, as OpenAI's API",
    "score": "per-token and per-response rewards of given responses",
    "accuracy": "pairwise accuracy of a reward model, beside its floors",
    "compare": "whose answers are better: win rates of two sides, by held-out judges",
    "calibrate": "find the strength that an ARM should have, and store it as its scale",
    "pareto": "sweep preferences: fronts of guides, hypervolume, mean inner product",
    "label": "relabel preference pairs per objective, with scorers",
    "export": "a conditioned ARM at one preference, as a standard LoRA or a merged model",
    "bench": "the price of guidance on this machine",
}

USAGE = """\
usage: trimtab COMMAND [options]        trimtab COMMAND --help for a command's options

Steer a frozen language model at test time with small autoregressive reward models (ARMs).

commands:
{commands}

options:
  --version   print the version
  --help      print this text

start here:  trimtab demo
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 good, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        rows = "\n".join(f"  {name:<10}  {text}" for name, text in COMMANDS.items())
        print(USAGE.format(commands=rows))
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"trimtab {__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        return _complain(f"unknown command {command!r}; the commands are: {', '.join(COMMANDS)}")
    try:
        code: int = importlib.import_module(f"trimtab.cli.{command}").main(rest)
        return code
    except TrimtabError as error:
        return _complain(str(error))
    except KeyboardInterrupt as stop:
        hint = f"; {stop}" if str(stop) else ""
        print(f"\ntrimtab: interrupted{hint}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; not imported for its name alone
            raise
        return _complain("the device's memory is full; lower the batch size, or --dtype bfloat16")
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complain(line: str) -> int:
    print(f"trimtab: error: {' '.join(line.split())}", file=sys.stderr)
    return 2
