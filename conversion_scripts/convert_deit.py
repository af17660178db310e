"""Convert a .pth of facebookresearch/deit to a Hugging Face folder, or such a folder back to .pth.

python conversion_scripts/convert_deit.py deit_base_distilled_patch16_224-df68dfff.pth deit-base-distilled
python conversion_scripts/convert_deit.py deit-base-distilled deit_base_distilled.pth
"""

from hfvision.conversion.script import run

if __name__ == "__main__":
    run("deit", __doc__)
