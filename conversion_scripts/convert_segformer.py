"""Convert a .pth of NVlabs/SegFormer (MiT or SegFormer) to a Hugging Face folder, or such a folder back to .pth.

python conversion_scripts/convert_segformer.py segformer.b0.512x512.ade.160k.pth segformer-b0-ade
python conversion_scripts/convert_segformer.py segformer-b0-ade segformer.b0.pth
"""

from hfvision.conversion.script import run

if __name__ == "__main__":
    run("segformer", __doc__)
