"""`hfvision train TASK`: fine-tune a model on a data set, or train one from nothing."""

import typer

from hfvision.cli.train.classification import classification
from hfvision.cli.train.detection import detection
from hfvision.cli.train.panoptic import panoptic
from hfvision.cli.train.segmentation import segmentation

app = typer.Typer()
for task in (classification, segmentation, detection, panoptic):
    app.command()(task)


@app.callback()
def tasks() -> None:
    """Fine-tune a model on a data set, or train one from nothing."""
