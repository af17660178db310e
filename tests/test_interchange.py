"""Files are interchangeable with transformers' own classes, for every family whose format is shared."""

import json

import pytest
import transformers

import hfvision
from tests.models import pixels
from tests.peers import SHARED, assert_same_outputs, call, on_request, peer_model, plain_transformers

PAINTS_ITS_OWN_SIZE = [name for name in SHARED if "Masked" in name]  # as transformers computes it


@pytest.mark.parametrize("fields", [{}, {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "qkv_bias": False}])
@pytest.mark.parametrize("name", SHARED)
def test_a_folder_of_transformers_loads_here_with_equal_outputs(name, fields, tmp_path):
    peer = peer_model(name, **fields)
    peer.save_pretrained(tmp_path)
    ours = getattr(hfvision, name).from_pretrained(tmp_path).eval()
    x = pixels(ours.config)
    assert_same_outputs(call(ours, x, output_hidden_states=True), call(peer, x, output_hidden_states=True))


@pytest.mark.parametrize("name", SHARED)
def test_a_folder_saved_here_loads_in_transformers_and_keeps_its_bytes(name, tmp_path):
    peer_model(name).save_pretrained(tmp_path / "made")
    with plain_transformers():  # loading writes the dtype into the config
        getattr(transformers, name).from_pretrained(tmp_path / "made").save_pretrained(tmp_path / "theirs")
    ours = getattr(hfvision, name).from_pretrained(tmp_path / "theirs").eval()
    ours.save_pretrained(tmp_path / "ours")
    theirs, mine = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("theirs", "ours"))
    assert mine == theirs
    saved = [(tmp_path / side / "model.safetensors").read_bytes() for side in ("theirs", "ours")]
    assert saved[0] == saved[1]
    with plain_transformers():
        again, loading = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values())
    x = pixels(ours.config)
    assert_same_outputs(call(ours, x), call(again.eval(), x))


@pytest.mark.parametrize("name", [name for name in SHARED if name not in PAINTS_ITS_OWN_SIZE])
def test_another_size_gives_what_transformers_gives_on_request(name, tmp_path):
    peer = peer_model(name)
    peer.save_pretrained(tmp_path)
    ours = getattr(hfvision, name).from_pretrained(tmp_path).eval()
    x = pixels(ours.config, size=(48, 40))
    assert_same_outputs(call(ours, x), call(peer, x, **on_request(peer)))
