"""Convert a .pth of Swin-Transformer-Semantic-Segmentation to a Hugging Face folder, or such a folder back to .pth.

python conversion_scripts/convert_upernet.py upernet_swin_tiny_patch4_window7_512x512.pth upernet-swin-tiny
python conversion_scripts/convert_upernet.py upernet-swin-tiny upernet_swin_tiny.pth
"""

from hfvision.conversion.script import run

if __name__ == "__main__":
    run("upernet", __doc__)
