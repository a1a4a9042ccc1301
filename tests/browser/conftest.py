"""The site in a browser: collected only when ESPREF_SITE names a built site (``make docs-test``)."""

import os

collect_ignore_glob = [] if "ESPREF_SITE" in os.environ else ["*"]
