"""`python -m ppvae` is the command line."""

import sys

from ppvae.cli import main

sys.exit(main())
