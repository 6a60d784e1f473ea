"""Functions that are compiled when they are first called, and do without where no compiler is found."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Indices are clamped before they are used, so that inductor need not check them. Its thresholds for keeping an intermediate
# result in memory would write out every sample.
_OPTIONS = {
    "assert_indirect_indexing": False,
    "realize_opcount_threshold": 1000,
    "realize_reads_threshold": 1000,
    "realize_acc_reads_threshold": 1000,
}
# Kinds of calls, by dtype, points a sum and width of a row, before a function is no longer compiled anew.
_KINDS = 64

_found_no_compiler = False


class Fused:
    """A function, compiled once for all sizes.

    Args:
        traced: what is compiled.
        plain: what is called instead where compiling fails; takes the same arguments.
        static: arguments that are tensors whose last dimension is compiled as a constant.
    """

    def __init__(self, traced: Callable, plain: Callable, static: Sequence[int]):
        self._plain, self._static = plain, static
        self._compiled = torch.compile(
            traced, dynamic=True, fullgraph=True, options=_OPTIONS, recompile_limit=_KINDS, isolate_recompiles=True
        )

    def __call__(self, *arguments):
        global _found_no_compiler
        if _found_no_compiler:
            return self._plain(*arguments)
        arguments = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
        for number in self._static:
            torch._dynamo.mark_static(arguments[number], -1)
        try:
            # The same state in forward and backward, in training and inference, else each is compiled for itself.
            with torch.no_grad(), torch._C._AutoDispatchBelowADInplaceOrView():
                return self._compiled(*arguments)
        except (RuntimeError, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            _found_no_compiler = True
            cause = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"segzoo: the deformable operators run uncompiled, because torch.compile failed here ({cause}); a C++ compiler "
                "such as g++, or its path in the environment variable CXX, makes them faster",
                stacklevel=2,
            )
            return self._plain(*arguments)
