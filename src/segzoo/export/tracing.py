"""Tracing of models into programs of ``torch.export``, which ``.pt2`` files hold and ONNX files are made from."""

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as tracing_options
from transformers import PreTrainedModel

from segzoo.backbones import DDRNetConfig, MiTConfig, PIDNetConfig, SwinConfig, TwinsConfig
from segzoo.errors import SegZooError, first_line
from segzoo.export.exported_model import ExportedModel
from segzoo.heads import DPTHeadConfig, LRASPPHeadConfig
from segzoo.universal import constant_mask_probabilities

# Parts whose coarsest maps are often one row or a single window.
_SMALL_MAPS = (DDRNetConfig, MiTConfig, PIDNetConfig, SwinConfig, TwinsConfig, DPTHeadConfig, LRASPPHeadConfig)

LEAST_SIDES = range(32, 256, 32)
"""Sides in pixels of small pictures that a program of any size is tried with."""


def trace_model(
    exported: ExportedModel, example: Tensor, *, free_batch: bool, free_size: bool
) -> torch.export.ExportedProgram:
    """The program of a model for pictures like an example.

    Args:
        exported: the model with the steps that go into the file.
        example: a batch of pictures, two at least where the batch is free.
        free_batch: the program takes any number of pictures.
        free_size: the program takes pictures of any size.

    Raises:
        SegZooError: the model cannot be traced; the message says which flags fix what was left free.
    """
    free = [0] * free_batch + ([1, 2] if exported.uint8 else [2, 3]) * free_size
    shapes = (dict.fromkeys(free, torch.export.Dim.DYNAMIC),)
    try:
        config = exported.model.config
        parts = [getattr(config, "backbone_config", None), *getattr(config, "decode_head_configs", ())]
        oblivious = free_size and any(isinstance(part, _SMALL_MAPS) for part in parts)
        program = _oblivious_trace(exported, example, shapes) if oblivious else None
        if program is None:
            program = _plain_trace(exported, example, shapes)
    except SegZooError:
        raise
    except Exception as error:
        freed = {"size": "--size HEIGHT WIDTH"} if free_size else {}
        freed |= {"batch": "--batch 1"} if free_batch else {}
        if freed:
            how, fix = f"with a free {' and '.join(freed)}", f"give {' and '.join(freed.values())}"
        else:
            how, fix = f"for the input {tuple(example.shape)}", "try another --size, such as that of its training"
        raise SegZooError(f"the model cannot be traced {how} ({first_line(first_cause(error))}); {fix}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


@torch.no_grad()
def least_side(
    program: torch.export.ExportedProgram, picture: Callable[[tuple[int, int]], Tensor], *, multiple: int = 1
) -> int:
    """From which side on, in pixels, a program of any size takes pictures, long and narrow ones too.

    A map of one row or one window is a case of its own to the tracer, whose program may then be for larger ones alone.

    Args:
        program: what `trace_model` returned.
        picture: makes an input of a (height, width).
        multiple: what sides are multiples of.

    Returns:
        the first of ``LEAST_SIDES`` at which the program runs, rounded up to a multiple, or the number after the last.
    """
    run = program.module()
    long = -(-LEAST_SIDES.stop // multiple) * multiple
    for side in (-(-side // multiple) * multiple for side in LEAST_SIDES):
        try:
            for size in ((side, side), (side, long), (long, side)):
                run(picture(size))
        except Exception:  # guards of programs and operators have many kinds
            continue
        return side
    return long


def _plain_trace(exported: ExportedModel, example: Tensor, shapes: tuple[dict, ...]) -> torch.export.ExportedProgram:
    with (
        torch.no_grad(),
        _eager_attention(exported),
        constant_mask_probabilities(exported.model),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        return torch.export.export(exported, (example,), dynamic_shapes=shapes, strict=False)


def _oblivious_trace(
    exported: ExportedModel, example: Tensor, shapes: tuple[dict, ...]
) -> torch.export.ExportedProgram | None:
    """A trace in which maps of one row, or of a single window, are no case of their own; PyTorch's exporter to ONNX asks
    for the same. None if the model cannot be traced so, or not for a single picture: convolutions of maps that are not
    contiguous ask how many there are.
    """
    try:
        with tracing_options.patch(backed_size_oblivious=True):
            program = _plain_trace(exported, example, shapes)
    except SegZooError:
        raise
    except Exception:
        return None
    given = next(node for node in program.graph.nodes if node.target in program.graph_signature.user_inputs)
    batch = given.meta["val"].shape[0]
    if not isinstance(batch, torch.SymInt):
        return program
    symbol = batch.node.expr
    asked = [guard.expr for guard in batch.node.shape_env.guards if guard.expr.free_symbols == {symbol}]
    several = program.range_constraints[symbol].lower > 1 or any(expr.subs(symbol, 1) == False for expr in asked)  # noqa: E712
    return None if several else program


@contextlib.contextmanager
def _eager_attention(module: nn.Module) -> Iterator[None]:
    """A context in which attention is computed by products and softmax.

    The fused operator has another memory layout than its decomposition in exporters.
    """
    configs = [part.config for part in module.modules() if isinstance(part, PreTrainedModel)]  # outer ones first
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


def first_cause(error: BaseException) -> BaseException:
    """The first error in the chain of causes that led to ``error``."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
