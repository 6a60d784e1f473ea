"""``segzoo train`` as a script, for those who know transformers' run_semantic_segmentation scripts: the flags are the same.

accelerate launch examples/run_semantic_segmentation.py --dataset_name DATA --output_dir OUT ...
"""

import sys

from segzoo.commands import cli


def main(argv: list[str] | None = None) -> int:
    """Train as the flags say; returns the exit status."""
    return cli.main(["train", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
