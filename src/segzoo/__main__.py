"""``python -m segzoo`` is the program ``segzoo``."""

import sys

from segzoo.commands.cli import main

sys.exit(main())
