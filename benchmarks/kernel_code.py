"""The machine code of the Triton kernels, compiled ahead of time: no GPU is needed.

For each kernel, dtype and architecture it counts instructions, loads of 16 bytes, atomic additions and those of 16
bytes, and barriers at which a block waits, and shows registers and stack of a thread. Where a loop is not unrolled, its
instructions count once. The block has the shape that the kernel takes on that architecture.

    python benchmarks/kernel_code.py
    python benchmarks/kernel_code.py --kernels dcnv3 --capabilities 90 --dtypes float32 --channels 16 --json
"""

import argparse
import dataclasses
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator

import torch
from options import at_least
from segzoo._kernels.dcnv3 import functions as dcnv3_functions
from segzoo._kernels.dcnv3 import kernels as dcnv3_kernels
from segzoo._kernels.dcnv3.bilinear import block_shape, compute_dtype, forward_constants, lanes, vector
from segzoo._kernels.ms_deform_attn import functions as ms_deform_attn_functions
from segzoo._kernels.ms_deform_attn import kernels as ms_deform_attn_kernels
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime.errors import PTXASError

KERNELS = {"dcnv3": dcnv3_kernels, "ms_deform_attn": ms_deform_attn_kernels}
PASSES = ("forward", "backward")
DTYPES = ("float32", "float16", "bfloat16")
POINTERS = {torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
COUNTED = {
    "loads": r"\bld\.global",
    "vector_loads": r"\bld\.global[.\w:]*\.(v4\.\w?32|v2\.\w?64|\w?128)",
    "atomics": r"\b(red|atom)\.",
    "vector_atomics": r"\b(red|atom)\.[.\w]*v4",
    "barriers": r"\b(bar|barrier)\.",
    "shuffles": r"\bshfl\.",
}


@dataclasses.dataclass
class Code:
    kernel: str
    direction: str
    dtype: str
    channels: int
    capability: int
    softmax: bool
    block: int
    loads: int
    vector_loads: int
    atomics: int
    vector_atomics: int
    barriers: int
    shuffles: int
    instructions: int
    registers: int
    stack: int


def compiled(kernel: str, direction: str, dtype: torch.dtype, channels: int, capability: int, softmax: bool) -> Code:
    """Compile one kernel as a launch on a GPU of this capability would; offsets, locations and weights are float32.

    The sizes are InternImage's (3x3, 4 groups) and ViT-Adapter's (8 heads, 3 levels of 4 points).
    """
    if kernel == "dcnv3":
        options = dcnv3_functions.Options(4, 3, 1, 1, 1, 1.0, False, softmax)
        constants = dcnv3_functions.kernel_constants(options, dtype, torch.float32, torch.float32)
    else:
        constants = ms_deform_attn_functions.kernel_constants(8, 3, 4, dtype, torch.float32, torch.float32)
    sums = compute_dtype(dtype)
    moved = sums if direction == "backward" else dtype
    backward = direction == "backward"
    rows, warps = block_shape(channels, vector(moved, backward, divmod(capability, 10)))
    constants |= {"D": channels, "LANES": lanes(channels), "BLOCK": rows}
    if not backward:
        constants |= forward_constants(dtype, channels, False)
    pointers = dict.fromkeys(("input", "value", "output", "output_gradient"), dtype)
    pointers |= dict.fromkeys(("input_gradient", "value_gradient"), sums)
    names = ("offset", "mask", "locations", "weights")
    pointers |= dict.fromkeys((*names, *(f"{name}_gradient" for name in names)), torch.float32)

    function = getattr(KERNELS[kernel], f"{direction}_kernel")
    signature, values, attributes = {}, {}, {}
    for number, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            values[(number,)] = constants[name]
        elif name in pointers:
            signature[name] = POINTERS[pointers[name]]
            attributes[(number,)] = [["tt.divisibility", 16]]  # as memory from torch is
        else:
            signature[name] = ("i32",) * 6 if name == "codes" else "i32"
    source = ASTSource(function, signature, values, attributes)
    options = {"num_warps": warps, "num_stages": 1, "enable_fp_fusion": True}
    code = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    counts = {name: len(re.findall(pattern, code.asm["ptx"])) for name, pattern in COUNTED.items()}
    name = str(dtype).removeprefix("torch.")
    return Code(
        kernel, direction, name, channels, capability, softmax, rows, **counts, **_resources(code.asm["cubin"])
    )


def _resources(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _output(knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        code = _output(knobs.nvidia.nvdisasm.path, "-c", file.name)
    labels = {"registers": "REG", "stack": "STACK"}
    found = {name: int(re.search(rf"\b{label}:(\d+)", usage)[1]) for name, label in labels.items()}
    # Each has its address before it.
    instructions = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?!NOP)\S.*;", code, re.MULTILINE)
    return {"instructions": len(instructions), **found}


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def table(codes: Iterator[Code]) -> None:
    print(
        "| kernel | D | dtype | arch | block | instructions | 16-byte loads | atomics, of them 16 bytes | barriers "
        "| registers | stack |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for code in codes:
        name = f"{code.kernel} {code.direction}{', softmax' if code.softmax else ''}"
        print(
            f"| {name} | {code.channels} | {code.dtype} | sm_{code.capability} | {code.block} | {code.instructions} "
            f"| {code.vector_loads} of {code.loads} | {code.atomics}, {code.vector_atomics} | {code.barriers} "
            f"| {code.registers} | {code.stack} |",
            flush=True,
        )


def all_codes(arguments: argparse.Namespace) -> Iterator[Code]:
    for kernel in arguments.kernels:
        for direction in arguments.passes:
            for capability in arguments.capabilities:
                for dtype in arguments.dtypes:
                    for channels in arguments.channels:
                        try:
                            yield compiled(
                                kernel, direction, getattr(torch, dtype), channels, capability, kernel == "dcnv3"
                            )
                        except PTXASError as error:
                            cause = str(error).partition("Repro command")[0].strip()
                            raise SystemExit(f"no code for --capabilities {capability}: {cause}") from None


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--capabilities", nargs="+", type=at_least(1), default=[80, 90], metavar="CC")
    parser.add_argument("--dtypes", nargs="+", choices=(*DTYPES, "float64"), default=list(DTYPES))
    parser.add_argument("--channels", nargs="+", type=at_least(1), default=[16], help="of a group or head")
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    return parser.parse_args(given)


def main() -> None:
    arguments = parse()
    if arguments.json:
        print(json.dumps([dataclasses.asdict(code) for code in all_codes(arguments)]))
    else:
        table(all_codes(arguments))


if __name__ == "__main__":
    main()
