"""Write each kernel's build folder, as the kernel builder does for kernels that are not compiled ahead of time.

    python kernels/build.py                      # kernels/<name>/build/torch-cuda
    python kernels/build.py --output /tmp/built  # /tmp/built/<name>/build/torch-cuda
    python kernels/build.py --shared             # only copy the files of kernels/shared into each kernel

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


SHARED = {
    "bilinear.py": "torch-ext/{module}/bilinear.py",
    "support.py": "tests/support.py",
    "conftest.py": "tests/conftest.py",
    "flake.nix": "flake.nix",
}
"""Files of ``kernels/shared`` and the paths of their copies; ``NAME`` in a flake is the kernel's name."""


def sources() -> list[Path]:
    """The folders of all kernels: those with a ``build.toml``."""
    return sorted(path.parent for path in HERE.glob("*/build.toml"))


def settings(source: Path) -> tuple[dict, str]:
    """The section ``general`` of a kernel's ``build.toml``, and the name of its module."""
    general = tomllib.loads((source / "build.toml").read_text())["general"]
    return general, general["name"].replace("-", "_")


def shared_files(source: Path) -> dict[Path, str]:
    """The copies of ``kernels/shared`` that the kernel in ``source`` must have: contents by path."""
    general, module = settings(source)
    files = {}
    for file, place in SHARED.items():
        text = (HERE / "shared" / file).read_text()
        files[source / place.format(module=module)] = (
            text.replace("NAME", general["name"]) if file == "flake.nix" else text
        )
    return files


def bring_shared_files(source: Path) -> None:
    """Write those copies of the kernel in ``source`` that differ from ``kernels/shared``, and print their paths."""
    for path, text in shared_files(source).items():
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            print(path)


def build(source: Path, target: Path) -> None:
    """Write ``target/build/torch-<backend>`` for every backend of the kernel in ``source``."""
    general, module = settings(source)
    python = {path.name: path.read_bytes() for path in sorted((source / "torch-ext" / module).glob("*.py"))}
    unique = hashlib.sha256(b"".join(python.values())).hexdigest()[:7]
    # Older versions of the kernels library look for the module here.
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
    """Copy shared files into the kernels, and build the kernels unless ``--shared`` is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE, help="a folder for each kernel is written in it")
    parser.add_argument("--shared", action="store_true", help="only bring what kernels share into each of them")
    args = parser.parse_args()
    for source in sources():
        bring_shared_files(source)
        if not args.shared:
            build(source, args.output / source.name)
            print(args.output / source.name / "build")


if __name__ == "__main__":
    main()
