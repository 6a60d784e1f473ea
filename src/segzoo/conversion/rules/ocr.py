"""OCRHead of mmsegmentation, the second head of a cascade."""

from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.heads.ocr import OCRHeadConfig

_BLOCK = "object_context_block"

head_rule(
    "OCRHead",
    config=OCRHeadConfig,
    options={"ocr_channels": 256},
    # With another scale the original fails when it runs; older versions wrote use_sep_conv.
    expected={"scale": (1,), "use_sep_conv": (False,)},
    keys=(
        *conv_module("bottleneck", "pixel_conv"),
        *conv_module(f"{_BLOCK}.query_project.{{}}", "query.{}"),
        *conv_module(f"{_BLOCK}.key_project.{{}}", "key.{}"),
        *conv_module(f"{_BLOCK}.value_project", "value"),
        *conv_module(f"{_BLOCK}.out_project", "context_conv"),
        *conv_module(f"{_BLOCK}.bottleneck", "fusion"),
    ),
)
