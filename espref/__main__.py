"""``python -m espref``: the same as the command ``espref``."""

import sys

from .app.cli import main

sys.exit(main())
