"""Convert an MLP-Mixer .npz of google-research/vision_transformer to a Hugging Face folder, or such a folder back.

python conversion_scripts/convert_google_mixer.py Mixer-B_16.npz mixer-base-patch16
python conversion_scripts/convert_google_mixer.py mixer-base-patch16 Mixer-B_16.npz
"""

from hfvision.conversion.script import run

if __name__ == "__main__":
    run("google_mixer", __doc__)
