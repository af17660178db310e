"""Convert the state dict of a ViT or DeiT of timm to a Hugging Face folder, or such a folder back.

python conversion_scripts/convert_timm.py vit_base_patch16_224.safetensors vit-base-patch16
python conversion_scripts/convert_timm.py vit-base-patch16 vit_base_patch16_224.safetensors
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from hfvision.conversion import convert, convert_back
from hfvision.errors import HfvisionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the .safetensors or .pth file, or the folder to convert back")
    parser.add_argument("out", type=Path, help="the folder to write, or the .safetensors or .pth file")
    parser.add_argument("--image-size", type=int, nargs="+", help="pixels: one side, or height and width")
    parser.add_argument(
        "--heads", type=int, help="attention heads, which the tensors do not show; by default width / 64"
    )
    parser.add_argument("--entry", help="which weights of a training file, model_ema for one")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    args = parser.parse_args()
    overrides: dict[str, Any] = {}
    if args.image_size:
        overrides["image_size"] = args.image_size if len(args.image_size) > 1 else args.image_size[0]
    if args.heads:
        overrides["num_attention_heads"] = args.heads
    try:
        if args.source.is_dir():
            report = convert_back(args.source, args.out, family="timm", overwrite=args.overwrite)
        else:
            report = convert(
                args.source,
                args.out,
                family="timm",
                overrides=overrides,
                entry=args.entry,
                overwrite=args.overwrite,
            )
    except HfvisionError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(report.text())


if __name__ == "__main__":
    main()
