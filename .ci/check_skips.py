"""Fail when pytest skipped a test for a reason that is not listed.

usage: check_skips.py PYTEST_LOG ALLOWED_REASONS
"""

import re
import sys
from pathlib import Path

log, allowed = (Path(argument).read_text(encoding="utf-8") for argument in sys.argv[1:])
reasons = {line.strip() for line in allowed.splitlines() if line.strip() and line[0] != "#"}
skipped = re.findall(r"^SKIPPED \[\d+\] \S+: (.*)$", log, flags=re.MULTILINE)
unlisted = [reason for reason in skipped if reason not in reasons]
for reason in unlisted:
    print(f"unlisted skip: {reason}", file=sys.stderr)
sys.exit(bool(unlisted))
