"""Two-way conversion between the checkpoints of original repositories and the Hugging Face format.

`convert` writes a folder that `from_pretrained` loads, `convert_back` the original's file again, `verify` compares a
converted model with outputs of the original, `convert_adapter` renames an adapter's modules. A format is a table of
rules in `tables/`; `engine` applies it.
"""

from hfvision.conversion.adapters import AdapterReport, convert_adapter
from hfvision.conversion.report import ConversionReport
from hfvision.conversion.to_hub import convert
from hfvision.conversion.to_original import convert_back
from hfvision.conversion.verify import verify

__all__ = ["AdapterReport", "ConversionReport", "convert", "convert_adapter", "convert_back", "verify"]
