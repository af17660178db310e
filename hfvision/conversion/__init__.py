"""Two-way conversion between the checkpoints of original repositories and the Hugging Face format.

`convert` writes a folder that `from_pretrained` loads, `convert_back` the original's file again, `verify` compares a
converted model with outputs of the original. A format is a table of rules in `tables/`; `engine` applies it.
"""

from hfvision.conversion.report import ConversionReport
from hfvision.conversion.to_hub import convert
from hfvision.conversion.to_original import convert_back
from hfvision.conversion.verify import verify

__all__ = ["ConversionReport", "convert", "convert_back", "verify"]
