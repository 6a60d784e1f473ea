"""Functions that are compiled when they are first called, and run uncompiled where no compiler is found."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed, FailOnRecompileLimitHit

from segzoo.compat import compile_kinds

# Indices are clamped before they are used, so that inductor need not check them. Its thresholds for keeping an
# intermediate result in memory would write out every sample.
_OPTIONS = {
    "assert_indirect_indexing": False,
    "realize_opcount_threshold": 1000,
    "realize_reads_threshold": 1000,
    "realize_acc_reads_threshold": 1000,
}
# Number of kinds of calls that a function is compiled for. Dtypes, flags, loop counts and sizes of 1 distinguish the
# kinds.
_KINDS = 64


@functools.cache
def warn_once(message: str) -> None:
    """Warn the caller's caller, once per message and process."""
    warnings.warn(message, stacklevel=3)


class Fused:
    """A function that is compiled once for all sizes of a kind of call.

    Errors of the call itself, such as too little memory, are raised unchanged.

    Args:
        traced: the function that is compiled.
        plain: a function with the same arguments and results, which is called instead once compiling has failed, and
            for the kinds of calls after the first 64.
    """

    def __init__(self, traced: Callable, plain: Callable):
        self._traced, self._plain, self._compiles = traced, plain, True

    @functools.cached_property
    def _compiled(self) -> Callable:
        # Not before the first call: inductor, which reads the options, takes a tenth of the time of importing segzoo.
        return compile_kinds(self._traced, kinds=_KINDS, dynamic=True, fullgraph=True, options=_OPTIONS)

    def __call__(self, *arguments: Any) -> Any:
        if not self._compiles:
            return self._plain(*arguments)
        arguments = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
        try:
            # The same state in forward and backward, in training and inference, else each of them is compiled
            # separately.
            with torch.no_grad(), torch._C._AutoDispatchBelowADInplaceOrView():
                return self._compiled(*arguments)
        except BackendCompilerFailed as error:  # inductor's errors, such as a missing compiler
            self._compiles = False
            cause = str(error.inner_exception).strip().partition("\n")[0]
            warn_once(
                f"segzoo: the deformable operators run uncompiled, because torch.compile failed here ({cause}); a C++ compiler "
                "such as g++, or its path in the environment variable CXX, makes them faster"
            )
        except FailOnRecompileLimitHit:
            warn_once(
                f"segzoo: some calls of the deformable operators run uncompiled, because {_KINDS} kinds of calls (by dtypes, "
                "options, numbers of points) are compiled already; torch.compiler.reset() makes room for others"
            )
        return self._plain(*arguments)
