"""``python -m sftkit`` is the command ``sftkit``."""

import sys

from sftkit.cli import main

sys.exit(main())
