"""Convert a .pth of fudan-zvg/SETR to a Hugging Face folder, or such a folder back to .pth.

python conversion_scripts/convert_setr.py SETR_PUP_768x768_80k_cityscapes_bs_8.pth setr-pup-cityscapes
python conversion_scripts/convert_setr.py setr-pup-cityscapes SETR_PUP_768x768_80k_cityscapes_bs_8.pth
"""

from hfvision.conversion.script import run

if __name__ == "__main__":
    run("setr", __doc__)
