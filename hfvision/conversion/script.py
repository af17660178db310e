"""What the scripts in `conversion_scripts` share: one original's converter as a command line, in both directions."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfvision.conversion.to_hub import convert
from hfvision.conversion.to_original import convert_back
from hfvision.errors import HfvisionError


def run(family: str, description: str | None, heads: Sequence[str] = ("num_attention_heads",)) -> None:
    """Read the command line, convert, print the report. A user's mistake ends in one message and exit code 1.

    `heads`: the config fields that --heads sets.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the original's file, or the folder to convert back")
    parser.add_argument("out", type=Path, help="the folder to write, or the original's file")
    parser.add_argument("--image-size", type=int, nargs="+", help="pixels: one side, or height and width")
    parser.add_argument("--heads", type=int, help="attention heads, where the tensors do not show them")
    parser.add_argument("--entry", help="which weights of a training file, model_ema for one")
    parser.add_argument("--license", help="of the weights, for the model card; that of a published file is known")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    args = parser.parse_args()
    overrides: dict[str, Any] = {}
    if args.image_size:
        overrides["image_size"] = args.image_size if len(args.image_size) > 1 else args.image_size[0]
    if args.heads:
        overrides |= dict.fromkeys(heads, args.heads)
    options: dict[str, Any] = {"family": family, "overwrite": args.overwrite}
    try:
        if args.source.is_dir():
            report = convert_back(args.source, args.out, **options)
        else:
            options |= {"entry": args.entry, "license": args.license}
            report = convert(args.source, args.out, overrides=overrides, **options)
    except HfvisionError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(report.text())
