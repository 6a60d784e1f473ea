"""``segzoo train`` as a script with the flags of transformers' run_semantic_segmentation scripts.

accelerate launch examples/run_semantic_segmentation.py --dataset_name DATA --output_dir OUT ...
"""

import sys

from segzoo.commands import cli


def main(argv: list[str] | None = None) -> int:
    """Run ``segzoo train`` with these arguments, by default the process's; returns the exit status."""
    return cli.main(["train", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
