"""`python -m pipeline`: what reproduce.sh runs."""

import sys

from pipeline.cli import main

sys.exit(main())
