"""Write each kernel's build folder, as the kernel builder does for kernels that are not compiled ahead of time.

    python kernels/build.py                      # kernels/<name>/build/torch-cuda
    python kernels/build.py --output /tmp/built  # /tmp/built/<name>/build/torch-cuda

The ``kernels`` library loads the result: ``kernels.get_local_kernel(Path("kernels/dcnv3"))``.
"""

import argparse
import base64
import hashlib
import json
import shutil
import tomllib
from pathlib import Path

HERE = Path(__file__).parent


def sources() -> list[Path]:
    """The kernels' folders."""
    return sorted(path.parent for path in HERE.glob("*/build.toml"))


def build(source: Path, target: Path) -> None:
    """Write ``target/build/torch-<backend>`` for every backend of the kernel in ``source``."""
    general = tomllib.loads((source / "build.toml").read_text())["general"]
    module = general["name"].replace("-", "_")
    python = {path.name: path.read_bytes() for path in sorted((source / "torch-ext" / module).glob("*.py"))}
    unique = hashlib.sha256(b"".join(python.values())).hexdigest()[:7]
    # Where versions of the kernels library look that do not know flat builds.
    python[f"{module}/__init__.py"] = b"from .. import *  # noqa: F403\n"
    for backend in general["backends"]:
        folder = target / "build" / f"torch-{backend}"
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in python.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        digests = {name: base64.b64encode(hashlib.sha256(text).digest()).decode() for name, text in python.items()}
        metadata = {
            "id": f"_{module}_{backend}_{unique}",
            "name": general["name"],
            "version": general["version"],
            "license": general["license"],
            "python-depends": [],
            "backend": {"type": backend},
            "digest": {"algorithm": "sha256", "files": digests},
        }
        (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE, help="a folder for each kernel is written in it")
    output = parser.parse_args().output
    for source in sources():
        build(source, output / source.name)
        print(output / source.name / "build")


if __name__ == "__main__":
    main()
