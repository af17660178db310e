"""Convert a ViT .npz of google-research/vision_transformer to a Hugging Face folder, or such a folder back to .npz.

python conversion_scripts/convert_google_vit.py ViT-B_16.npz vit-base-patch16
python conversion_scripts/convert_google_vit.py vit-base-patch16 ViT-B_16.npz
"""

from hfvision.conversion.script import run

if __name__ == "__main__":
    run("google_vit", __doc__)
