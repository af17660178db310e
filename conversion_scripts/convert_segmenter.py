"""Convert checkpoint.pth of rstrudel/segmenter, with variant.yml beside it, to a Hugging Face folder, or back to both.

python conversion_scripts/convert_segmenter.py seg_base_mask/checkpoint.pth segmenter-base-mask
python conversion_scripts/convert_segmenter.py segmenter-base-mask again/checkpoint.pth
"""

from hfvision.conversion.script import run

if __name__ == "__main__":
    run("segmenter", __doc__)
