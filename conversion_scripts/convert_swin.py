"""Convert a .pth of microsoft/Swin-Transformer to a Hugging Face folder, or such a folder back to .pth.

python conversion_scripts/convert_swin.py swin_tiny_patch4_window7_224.pth swin-tiny
python conversion_scripts/convert_swin.py swin-tiny swin_tiny_patch4_window7_224.pth
"""

from hfvision.conversion.script import run

if __name__ == "__main__":
    run("swin", __doc__)
