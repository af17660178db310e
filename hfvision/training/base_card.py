"""What the card of the model that is fine-tuned says about its licence."""

from pathlib import Path

from huggingface_hub import hf_hub_download, metadata_load


def license_of(source: str) -> str | None:
    """The Hub's identifier of the licence in the model card of a folder or Hub id; None where no card states one."""
    try:
        card = Path(source) / "README.md" if Path(source).is_dir() else hf_hub_download(source, "README.md")
        license = (metadata_load(card) or {}).get("license")
    except Exception:  # no card, no network, or no readable front matter: nothing is stated
        return None
    return license if isinstance(license, str) else None
