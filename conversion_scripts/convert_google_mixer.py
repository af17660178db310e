"""Convert a MLP-Mixer .npz of google-research/vision_transformer to a Hugging Face folder, or such a folder back.

python conversion_scripts/convert_google_mixer.py Mixer-B_16.npz mixer-base-patch16
python conversion_scripts/convert_google_mixer.py mixer-base-patch16 Mixer-B_16.npz
"""

import argparse
import sys
from pathlib import Path

from hfvision.conversion import convert, convert_back
from hfvision.errors import HfvisionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the .npz file, or the folder to convert back")
    parser.add_argument("out", type=Path, help="the folder to write, or the .npz file")
    parser.add_argument("--image-size", type=int, nargs="+", help="pixels: one side, or height and width")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    args = parser.parse_args()
    size = (
        {"image_size": args.image_size if len(args.image_size) > 1 else args.image_size[0]} if args.image_size else {}
    )
    try:
        if args.source.is_dir():
            report = convert_back(args.source, args.out, family="google_mixer", overwrite=args.overwrite)
        else:
            report = convert(args.source, args.out, family="google_mixer", overrides=size, overwrite=args.overwrite)
    except HfvisionError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(report.text())


if __name__ == "__main__":
    main()
