"""Convert the state dict of a ViT, DeiT, hybrid or Mixer of timm to a Hugging Face folder, or such a folder back.

python conversion_scripts/convert_timm.py vit_base_patch16_224.safetensors vit-base-patch16
python conversion_scripts/convert_timm.py vit-base-patch16 vit_base_patch16_224.safetensors
"""

from hfvision.conversion.script import run

if __name__ == "__main__":
    run("timm", __doc__)
