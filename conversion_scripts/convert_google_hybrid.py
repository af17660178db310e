"""Convert a hybrid ViT .npz of google-research/vision_transformer to a Hugging Face folder, or such a folder back.

python conversion_scripts/convert_google_hybrid.py R50+ViT-B_16.npz vit-hybrid-base
python conversion_scripts/convert_google_hybrid.py vit-hybrid-base R50+ViT-B_16.npz
"""

from hfvision.conversion.script import run

if __name__ == "__main__":
    run("google_hybrid", __doc__)
