"""The models that ship inside the package: complete, small, as good as their cards say, and answering offline."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

import hfvision  # noqa: F401 - makes transformers' pipeline give hfvision's classes
from hfvision.data.digits import load_digits
from hfvision.starters import STARTERS, resolve

FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
