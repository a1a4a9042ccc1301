"""``python -m espref``: the same as the command ``espref``."""

import sys

from .cli import main

sys.exit(main())
