"""``segzoo train`` that notes before the first step how the weights lie in this process; `ScriptRun` runs this file.

The first words may be ``NAME=VALUE`` for the environment; the facts go to ``OUTPUT_DIR-RANK.json``.
"""

import json
import os
import sys

from segzoo.commands import cli
from segzoo.training import run as course


class Watched(course.Run):
    def train(self) -> None:
        from torch.distributed.tensor import DTensor

        facts = {
            name: [
                isinstance(p, DTensor),
                list(p.shape),
                p.to_local().numel() if isinstance(p, DTensor) else p.numel(),
            ]
            for name, p in self.trained.model.named_parameters()
        }
        path = f"{self.here.output_dir}-{self.accelerator.process_index}.json"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(facts, file)
        super().train()


def main(argv: list[str]) -> int:
    while "=" in argv[0]:
        name, value = argv.pop(0).split("=", 1)
        os.environ[name] = value
    course.Run = Watched
    return cli.main(["train", *argv])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
