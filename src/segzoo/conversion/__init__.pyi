# What segzoo.conversion offers, imported on first use.
from .convert import Conversion as Conversion
from .convert import convert_checkpoint as convert_checkpoint
from .describe import ConversionPreview as ConversionPreview
from .describe import describe_conversion as describe_conversion
from .errors import ConversionError as ConversionError
from .report import ConversionReport as ConversionReport
