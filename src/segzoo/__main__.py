"""``python -m segzoo`` is the program ``segzoo``."""

import sys

from segzoo.cli import main

sys.exit(main())
