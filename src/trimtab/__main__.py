"""`python -m trimtab` is the `trimtab` command."""

import sys

from trimtab.cli.main import main

sys.exit(main())
