"""Convert a .pth of facebookresearch/detr to a Hugging Face folder, or such a folder back to .pth.

python conversion_scripts/convert_detr.py detr-r50-e632da11.pth detr-resnet-50
python conversion_scripts/convert_detr.py detr-resnet-50 detr-r50.pth
"""

from hfvision.conversion.script import run

if __name__ == "__main__":
    run("detr", __doc__, heads=("encoder_attention_heads", "decoder_attention_heads"))
